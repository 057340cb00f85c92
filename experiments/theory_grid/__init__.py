"""Random networks of every activation, many scales and depths beside mean-field theory."""
