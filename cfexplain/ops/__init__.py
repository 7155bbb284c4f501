"""Hot operations of the search, each written several times: readable (``reference``), fast, and as a GPU kernel."""
