"""Words that a page must not run."""


EVIL = "<script>window.hacked = 1</script>\"'><img src=x onerror=window.hacked=2>&amp;</td>"
