"""The parts of `SegmentedIndex` (`csr_st.search.segmented_index`).

`state` is the one small file that says which segments there are, and which of their documents were
removed; `folder` changes it in one step; `segment` is an open segment; `writing` makes the file of
one, `merging` one of several; `large_files` are the inverted indexes of segments so large that
building them again would take long.
"""
