"""The page: one HTML file in which codes and their texts are looked at, without server or network.

`content` puts together what it shows, `layout` the map of latents, `thumbnails` small pictures of
images; `assembly` joins it with the files of ``assets`` (HTML, CSS, JavaScript), `serving` serves
it with a box for texts of the user.
"""

from csr_st.insight.page.assembly import is_page, render_page, rendered, write_page
from csr_st.insight.page.content import MAX_TEXTS, Corpus, gathered
from csr_st.insight.page.serving import PageServer

__all__ = [
    "MAX_TEXTS",
    "Corpus",
    "PageServer",
    "gathered",
    "is_page",
    "render_page",
    "rendered",
    "write_page",
]
