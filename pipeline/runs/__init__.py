"""One logged run: executed at most once, resumed, stopped early, limited."""
