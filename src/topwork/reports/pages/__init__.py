"""What all pages of ours share: one look, pictures inside the file, charts as SVG, no script.

`templates` loads a page, which extends `base.html.j2` and takes macros from `parts.html.j2`;
`charts` draws within `axes`, in the colours of `palettes`; `balance` counts classes; small pictures
come from `images.thumbnails`.
"""
