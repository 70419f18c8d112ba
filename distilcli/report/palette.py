"""The colours of pages and figures, once for all modes.

They are custom properties of CSS, so that one figure is right in light, in dark and on paper. Dark
is for screens alone: what is printed is black on white.
"""

# What a colour is for: in light mode and on paper, then in dark mode.
PALETTE = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1c2127", "#e4e8ec"),
    "soft": ("#59636e", "#a0aab4"),
    "rule": ("#d9dfe5", "#323a43"),
    "wash": ("#f4f6f8", "#1c2229"),
    "grey": ("#8b949e", "#79838d"),
    "link": ("#1c63a8", "#7fb8f0"),
    "student": ("#1c63a8", "#7fb8f0"),
    "teacher": ("#a04c00", "#efa65c"),
    "start": ("#5b7f9f", "#8fa9c2"),
    "series-1": ("#1c63a8", "#7fb8f0"),
    "series-2": ("#1a7a48", "#6cc892"),
    "series-3": ("#7b4bb3", "#bfa2ee"),
    "series-4": ("#b3303f", "#f28f98"),
    "series-5": ("#0d7680", "#5fc6cf"),
    "series-6": ("#9c3d7c", "#e895c8"),
}


def palette_css() -> str:
    """The colours as custom properties of the root element."""
    light, dark = (
        ":root{" + ";".join(f"--{name}:{both[mode]}" for name, both in PALETTE.items()) + "}"
        for mode in (0, 1)
    )
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"
