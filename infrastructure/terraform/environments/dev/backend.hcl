bucket       = "srl-rlvr-dev-terraform-state"
key          = "srl-rlvr/terraform.tfstate"
region       = "us-east-1"
encrypt      = true
use_lockfile = true
