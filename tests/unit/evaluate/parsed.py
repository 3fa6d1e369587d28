"""Parsed HTML page whose elements can be queried."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link", "path", "use"}


class Element:
    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parent, self.children, self.words = tag, attributes, parent, [], []

    def __getitem__(self, name):
        return self.attributes[name]

    def all(self, tag=None, **wanted):
        for child in self.children:
            if (tag is None or child.tag == tag) and all(
                value in (child.attributes.get(name.replace("_", "-").strip("-")) or "").split(" ")
                for name, value in wanted.items()
            ):
                yield child
            yield from child.all(tag, **wanted)

    def one(self, tag=None, **wanted):
        (found,) = self.all(tag, **wanted)
        return found

    @property
    def text(self):
        return " ".join("".join(part if isinstance(part, str) else f" {part.text} " for part in self.words).split())


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.root = self.here = Element("root", {})
        self.feed(text)
        self.close()
        assert self.here is self.root, f"{self.here.tag} is left open"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), self.here)
        self.here.children.append(element)
        self.here.words.append(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag, attrs):
        element = Element(tag, dict(attrs), self.here)
        self.here.children.append(element)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.here.tag == tag, f"{self.here.tag} closed by {tag}"
            self.here = self.here.parent

    def handle_data(self, data):
        self.here.words.append(data)
