"""Every page fits the window, can be read, and asks nothing of the network."""

# Elements that reach beyond the window, but for those that scroll within a block of the page or are a closed menu.
BEYOND = """
[...document.querySelectorAll(":is(article, section, header, footer) *")].filter(element => {
    const box = element.getBoundingClientRect();
    if (!box.width || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
    for (let above = element; above; above = above.parentElement) {
        const style = getComputedStyle(above);
        const block = above != element && !above.querySelector("h1");
        if (style.visibility == "hidden" || (block && style.overflowX != "visible")) return false;
    }
    return true;
}).map(element => element.outerHTML.slice(0, 200))
"""
BRIGHT = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(value => value > 200)"
# Contrast of each text with the background behind it, by WCAG 2; the worst of the page.
FAINTEST = """
(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const seen = {};
    const rgba = colour => seen[colour] ??= (() => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    })();
    const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    let worst = [21, ""];
    const texts = ":is(p, td, th, h1, h2, li, pre, a, span, label, button, figcaption):not([aria-hidden=true])";
    for (const element of document.querySelectorAll(texts)) {
        if (!element.textContent.trim() || !element.getBoundingClientRect().width) continue;
        let above = element, behind;
        do behind = rgba(getComputedStyle(above).backgroundColor);
        while (behind[3] < 255 && (above = above.parentElement));
        const [a, b] = [light(behind), light(rgba(getComputedStyle(element).color))].sort((a, b) => b - a);
        const contrast = (a + .05) / (b + .05);
        if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 100)];
    }
    return worst;
})()
"""


def check_page(browser):
    """Check the open page at 1400 and 390 pixels, light and dark."""
    broken = browser.run(
        "[...document.images].filter(image => image.src && !image.naturalWidth).map(image => image.src)"
    )
    assert not broken, f"pictures that do not load: {broken}"
    for width in (390, 1400):
        browser.resize(width)
        wide, beyond = browser.run("document.documentElement.scrollWidth"), browser.run(BEYOND)
        assert wide == width, f"at {width} pixels the page is {wide} wide"
        assert not beyond, f"at {width} pixels beyond the window: {beyond}"
    for dark in (True, False):
        browser.resize(dark=dark)
        assert browser.run(BRIGHT) != dark, "the page does not follow the reader's choice of light or dark"
        contrast, element = browser.run(FAINTEST)
        assert contrast >= 4.5, f"contrast {contrast:.1f} of {element}, dark: {dark}"
    assert not browser.complaints, browser.complaints
    assert not browser.requests, browser.requests
