"""What can be measured of a page that a person would see: texts that are too faint to read."""

from __future__ import annotations

from tests.notebook.browsing import Browser

MIN_CONTRAST = 4.5  # WCAG 2, level AA; quiet remarks and icons, which stand beside words, have 3
MIN_CONTRAST_QUIET = 3.0

# Of every text of ours that is shown: its contrast with the first background behind it, opacity counted in.
FAINT = """([least, leastQuiet]) => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
            if (a > 0.9) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const opacity = element => {
        let all = 1;
        for (let at = element; at && !at.classList.contains('dnb'); at = at.parentElement)
            all *= Number(getComputedStyle(at).opacity);
        return all;
    };
    const found = [];
    for (const element of document.querySelectorAll('.jp-OutputArea .dnb *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        const box = element.getBoundingClientRect();
        if (!own || box.width < 2 || box.height < 2 || element.closest('style, title, desc')) continue;
        const style = getComputedStyle(element);
        const isSvg = Boolean(element.closest('svg'));
        const [r, g, b] = parse(isSvg ? style.fill : style.color);
        const under = behind(element), a = opacity(element);
        const seen = [r, g, b].map((value, i) => value * a + under[i] * (1 - a));
        const [dark, light] = [luminance(seen), luminance(under)].sort((x, y) => x - y);
        const contrast = (light + 0.05) / (dark + 0.05);
        const text = element.textContent.trim();
        const isQuiet = a < 1 || element.getAttribute('aria-hidden') || [...text].length === 1;
        if (contrast < (isQuiet ? leastQuiet : least)) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
    }
    return found;
}"""


def faint_texts(page: Browser) -> list[str]:
    """Return texts of ours that stand out too little from what is behind them, with their contrast."""
    found: list[str] = page.page.evaluate(FAINT, [MIN_CONTRAST, MIN_CONTRAST_QUIET])
    return found
