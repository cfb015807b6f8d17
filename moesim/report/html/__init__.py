"""A prediction as one page: no network, no library, charts as SVG."""
