"""Reports of a bench.

``bench_report`` writes all files; ``table`` and ``table_text`` make the tables, ``charts`` the drawings, ``page`` the
pieces of a self-contained HTML page; templates are in ``templates/``.
"""
