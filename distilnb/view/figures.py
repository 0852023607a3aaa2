"""How numbers are written, everywhere the same: money, tokens, durations, rates, shares."""

from __future__ import annotations

from math import floor, log10

UNKNOWN = "–"


def money(usd: float | None, *, is_free: bool = False) -> str:
    """Return an amount of dollars: two decimals from a cent up, four below; None is "price unknown".

    >>> [money(1.237), money(0.00094), money(1234.5), money(0), money(0, is_free=True), money(None)]
    ['$1.24', '$0.0009', '$1,234', '$0', 'free', 'price unknown']
    """
    if usd is None:
        return "price unknown"
    if usd == 0:
        return "free" if is_free else "$0"
    sign, amount = ("-" if usd < 0 else ""), abs(usd)
    if amount < 0.0001:
        return f"{sign}<$0.0001"
    if amount < 0.00995:
        return f"{sign}${f'{amount:.4f}'.rstrip('0')}"
    if amount < 999.995:
        return f"{sign}${amount:.2f}"
    return f"{sign}${amount:,.0f}"


def money_each(usd: float | None) -> str:
    """Return what one of many costs, in dollars: to two digits that count, however small it is.

    >>> [money_each(usd) for usd in (0.0000423, 0.0007, 0.0199, 1.237, 0, None)]
    ['$0.000042', '$0.0007', '$0.02', '$1.24', 'free', 'price unknown']
    """
    if not usd or usd >= 0.1:
        return money(usd, is_free=True)
    return f"${usd:.{1 - floor(log10(usd))}f}".rstrip("0")


def asked(n_asked: int, n_retries: int, n_reused: int) -> str:
    """Return how many requests were sent, how many of these a second time or later, and how many replies were reused.

    >>> asked(9, 7, 2), asked(0, 0, 4), asked(2, 1, 0)
    ('asked 9 (7 of them retries), reused 2', 'asked 0, reused 4', 'asked 2 (1 of them a retry), reused 0')
    """
    again = "a retry" if n_retries == 1 else "retries"
    told = f" ({count(n_retries)} of them {again})" if n_retries else ""
    return f"asked {n_asked}{told}, reused {n_reused}"


def tokens(number: int) -> str:
    """Return a count in three digits: 812, 12.3k, 1.5M."""
    return _short(number)


def count(number: int) -> str:
    """Return a whole number with its thousands set apart: 1,234,567."""
    return f"{number:,}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun: 1 row, 412 rows; `nouns` where an s does not do: 2 replies."""
    return f"{count(number)} {noun if number == 1 else nouns or f'{noun}s'}"


def size(n_bytes: int) -> str:
    """Return a number of bytes in three digits.

    >>> [size(0), size(812), size(12_345), size(7_340_000_000)]
    ['0 B', '812 B', '12.3 kB', '7.34 GB']
    """
    amount, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


def rate(per_s: float, unit: str = "rows") -> str:
    """Return a rate per second, or per minute when it is slower than one a second; "–" for none."""
    if per_s <= 0:
        return UNKNOWN
    if per_s < 1:
        per_min = per_s * 60
        return f"{per_min:.1f} {unit}/min" if per_min >= 0.1 else f"<0.1 {unit}/min"
    return f"{_short(per_s) if per_s >= 99.95 else f'{per_s:.1f}'} {unit}/s"


def percent(part: float, whole: float | None) -> str:
    """Return a share, never rounded up to 100% nor down to 0%; "–" of an unknown whole."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1%"
    return f"{min(100, int(share + 1e-9))}%"


def duration(seconds: float | None) -> str:
    """Return a length of time in words: 0.25 s, 1.4 s, 15 s, 2 min 5 s, 1 h 3 min, 2 d 4 h."""
    if seconds is None:
        return UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 0.005:
        return "<0.01 s" if seconds else "0 s"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def clock(seconds: float | None) -> str:
    """Return a length of time as a clock shows it: 0:52, 12:05, 1:02:03."""
    if seconds is None:
        return UNKNOWN
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _short(number: float) -> str:
    """Return three digits and a letter; 999,950 is 1M, not 1000k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            scaled = number / size
            decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            text = f"{scaled:.{decimals}f}"
            return (text.rstrip("0").rstrip(".") if decimals else text) + letter
    return f"{number:.0f}"
