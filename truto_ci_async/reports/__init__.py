"""What people look at after a pull: its rows, charts, and the report as one page of HTML.

`read_folder` reads the rows, with `text_files` and `parquet_files` for the formats and `committed_file` for the checks.
`charts` makes Altair charts of a data frame, a page or a folder. `report_page` puts them into a page that opens from
disk. All read what a pull has committed and ask the service for nothing. Start with `charts`.
"""

from . import charts as charts
