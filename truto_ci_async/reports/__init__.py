"""What people look at after a pull: its rows, charts, and the report as one page of HTML.

`read_folder` returns the committed rows of a folder, which `text_files` and `parquet_files` read and `committed_file`
checks. `charts` makes Altair charts of a data frame, a page or a folder; `rows` gets their columns. `report_page` puts
charts and tables into a page that opens from disk; `report_data` prepares them. Nothing here sends a request. Start
with `read_folder` and `charts`.
"""

from . import charts as charts
