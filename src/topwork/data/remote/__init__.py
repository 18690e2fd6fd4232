"""Files elsewhere: `urls` names them, `web` and `buckets` fetch them, `cache` keeps them."""
