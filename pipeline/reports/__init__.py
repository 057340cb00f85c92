"""Reports: HTML pages, comparisons, traces and figures."""
