"""Reports: a `Document` of figures, tables and words, and its forms as a page, as Markdown, as PDF. See "
"`document.py`."""
