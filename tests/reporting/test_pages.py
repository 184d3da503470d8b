"""Pages in a real browser: no complaint, no request, nothing wider than a phone, all pictures."""

import itertools

import pytest

from tests.support import browser as browsing

pytestmark = pytest.mark.slow


@pytest.fixture(params=["one", "several", "tasks", "hostile"])
def page(request, pages):
    return pages[request.param].as_uri()


@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_opens_without_a_fault(page, browser, width):
    browsing.resize(browser, width)
    browser.get(page)
    assert browsing.complaints(browser) == []
    assert browsing.broken_images(browser) == []
    assert browsing.overflow(browser) == 0
    counts = browser.execute_script(
        "return [document.images.length, document.scripts.length, "
        "document.querySelectorAll('svg').length]"
    )
    assert counts[0] >= 4 and counts[1] == 0 and counts[2] >= 2
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_wide_tables_scroll_in_their_own_box(browser, page):
    browsing.resize(browser, 360)
    browser.get(page)
    outside = browser.execute_script(
        """
        return [...document.querySelectorAll('table')].filter(table =>
          table.getBoundingClientRect().width > 340 && !table.closest('.scroll')).length
        """
    )
    assert outside == 0
    # A region that scrolls can be reached and moved by the keyboard.
    assert browser.execute_script(
        "return [...document.querySelectorAll('.scroll, pre')].every("
        "each => each.tabIndex === 0 && each.getAttribute('aria-label'))"
    )


def test_a_page_can_be_read_aloud(browser, page):
    browser.get(page)
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])"
    )
    assert levels.count(1) == 1 and levels[0] == 1
    steps = [after - before for before, after in itertools.pairwise(levels)]
    assert max(steps) == 1  # No level is left out.
    named = browser.execute_script(
        """
        const all = selector => [...document.querySelectorAll(selector)];
        return {
          images: all('img').every(each => each.alt),
          drawings: all('svg').every(each => each.getAttribute('aria-hidden') ||
            (each.getAttribute('role') === 'img' && each.getAttribute('aria-label'))),
          heads: all('th').every(each => ['row', 'col'].includes(each.scope)),
          tables: all('table').every(each => each.caption || each.getAttribute('aria-label')),
          targets: all('nav a').every(each => document.querySelector(each.hash)),
          identities: new Set(all('[id]').map(each => each.id)).size === all('[id]').length,
          language: document.documentElement.lang === 'en',
        };
        """
    )
    assert named == dict.fromkeys(named, True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_ground(browser, page, scheme):
    """Contrast of at least 4.5 of all text but that on the coloured cells, in both schemes."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page)
    least = browser.execute_script(
        """
        const light = text => {
          const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255).map(
            v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = element => {
          for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!colour.startsWith('rgba(') && colour !== 'transparent') return colour;
          }
        };
        return Math.min(...[...document.querySelectorAll('h1, p, td, th, a, figcaption, dd, code')]
          .filter(each => each.innerText && !each.closest('.confusion')).map(each => {
            const pair = [light(getComputedStyle(each).color), light(ground(each))];
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
          }));
        """
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert least >= 4.5
