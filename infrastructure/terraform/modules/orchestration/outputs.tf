output "state_machine_arns" {
  value = { for name, machine in aws_sfn_state_machine.this : name => machine.arn }
}
