"""Pages of a notebook show what the arrays hold, and escape what a user supplied."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from results import LAYOUTS, made


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, "tags are not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pages_escape_whatever_a_user_supplied():
    evil = '<script>alert("1")</script>"\'>&'
    for layout in ("grey", "table"):
        for n in (1, 5):
            cf = made(n, layout, explainer=evil, feature_names=[evil] * 5)
            cf.source = cf.target = cf.prediction = np.array([evil] * n)
            cf.valid = np.zeros(n, bool)
            cf.conditions = {evil: cf.valid}
            page = Page(cf._repr_html_())
            assert "script" not in page.tags and evil in page.text
            assert not any(key.startswith("on") for image in page.images for key in image)


@pytest.mark.parametrize("layout", ["grey", "colour", "flat image"])
def test_pages_hold_the_pictures_themselves(layout):
    cf = made(3, layout)
    images = Page(cf._repr_html_()).images
    assert len(images) == 12 and all(image["alt"] for image in images)
    kind, data = images[4 + 2]["src"].split(",")
    assert kind == "data:image/png;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    expected = cf.x_cf[1].reshape(LAYOUTS[layout][1])
    expected = np.moveaxis(expected, 0, -1) if layout == "colour" else expected[0]
    assert shown.shape == expected.shape
    np.testing.assert_allclose(shown / 255, expected, atol=0.51 / 255)
    signed = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[3]["src"].split(",")[1])))).astype(int)
    difference = (cf.x_cf[0] - cf.x[0]).reshape(LAYOUTS[layout][1]).mean(0)
    clear = np.abs(difference) > 0.1
    np.testing.assert_array_equal((signed[..., 0] > signed[..., 2])[clear], (difference > 0)[clear])


def test_a_notebook_shows_ten_rows():
    for layout in ("grey", "table"):
        text = made(12, layout, "str")._repr_html_()
        page = Page(text)
        assert page.tags.count("tr") == 11 and "first 10 of 12 rows" in page.text
        assert "http" not in text and page.tags.count("link") == page.tags.count("script") == 0
    assert "no rows" in made(0)._repr_html_()
