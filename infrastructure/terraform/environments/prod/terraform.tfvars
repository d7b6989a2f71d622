environment          = "prod"
consumer_account_ids = ["777788889999"]
schedules_enabled    = true
monthly_budget_usd   = 60000
alert_emails         = ["ml-oncall@example.com"]
