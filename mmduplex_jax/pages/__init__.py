"""Pages of HTML that commands and the notebook show."""
