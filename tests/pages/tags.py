"""What is in an HTML page, for tests."""

from html.parser import HTMLParser

EVIL = '"<script>alert(1)</script> & co'
VOID = {"meta", "img", "rect", "line", "polyline", "br", "track", "link", "input"}


class Tags(HTMLParser):
    """Collects tags with their attributes and text, and checks that tags are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> says something twice: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def named(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """Of each such tag the attributes."""
        return [
            found for name, found in self.tags if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]
