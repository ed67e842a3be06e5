"""A search for a network: its settings, its supernet or its front, its runs, its report."""
