"""The colours of pages and of pictures that are like them, each under one name."""

from __future__ import annotations

LIGHT = {
    "page": "#f6f6f3",
    "card": "#fff",
    "ink": "#1d2326",
    "soft": "#566067",
    "line": "#dcdedb",
    "link": "#0b5c8a",
    "bad": "#a1260d",
    "bad-page": "#fdeeea",
    "good": "#2c6e37",
    "empty": "#eceeeb",
    # Of the series of a chart.
    "s0": "#2f6c9e",
    "s1": "#c77a13",
    "s2": "#5c8a3a",
    "s3": "#8b5a9b",
    "s4": "#b5415b",
}
DARK = {
    "page": "#15191b",
    "card": "#1f2528",
    "ink": "#e8eaea",
    "soft": "#a7b0b5",
    "line": "#363d41",
    "link": "#7cc3ec",
    "bad": "#ff9b85",
    "bad-page": "#3a1f19",
    "good": "#8fd19b",
    "empty": "#2a3135",
    "s0": "#62a6dc",
    "s1": "#e6a23f",
    "s2": "#8cc063",
    "s3": "#c393d3",
    "s4": "#f08aa0",
}
PAPER = LIGHT | {
    "page": "#fff",
    "ink": "#000",
    "soft": "#444",
    "line": "#bbb",
    "link": "#000",
    "bad-page": "#fff",
    "empty": "#fff",
}
