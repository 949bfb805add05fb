"""``python -m csr_st.cli``."""

from csr_st.cli import main

main()
