"""What people look at after a pull: charts, and the report as one page of HTML.

`charts` makes Altair charts of a data frame, a page or a folder. `report_page` puts them into a page that opens from
disk. Both read what a pull has committed and send no requests. Start with `charts`.
"""

from . import charts as charts
