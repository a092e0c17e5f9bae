"""Contact sheets. What a sheet shows stands apart from how it is drawn:

`bands` finds the rows in the tables, `contents` joins them with the index to plain data (`cells`), `cell_pictures` decodes a
picture when it is asked for. `drawing` makes a PNG of that, with `layout` and `text_layout`; `sheet` is the function of the
public API, and `destination` guards the place that it writes to.
"""
