"""Many runs: planned once, executed by processes, summarised; search and remedy trials."""
