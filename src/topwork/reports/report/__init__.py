"""A report of a model as one HTML file: how good it is, on which images it fails, how it was made.

Answers are judged (`judging`), put into tables (`tables`) and told one by one (`cases`, with
`maps` of what the networks saw); `drawings` has the charts, `facts` what the model says of itself.
`page` puts it all together; `sources` finds the images again that the answers are of.
"""

from topwork.reports.report.judging import judge
from topwork.reports.report.page import render_report
from topwork.reports.report.sources import find_sources

__all__ = ["find_sources", "judge", "render_report"]
