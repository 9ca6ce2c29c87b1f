"""The server half: an index's content, kept in a catalog and published as a static site.

    sources -> sync -> catalog -> site (render) -> publish -> store

Needs the extra `cdn-fallback[mirror]`. The client half never imports it.
"""
