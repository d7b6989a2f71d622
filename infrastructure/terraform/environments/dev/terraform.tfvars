environment          = "dev"
consumer_account_ids = ["444455556666"]
schedules_enabled    = false
monthly_budget_usd   = 5000
alert_emails         = ["ml-dev@example.com"]
