"""Pages in a real browser: the site and the reports."""
