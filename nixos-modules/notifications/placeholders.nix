# The parts that `backstay notify` fills in. In braces in the title and the body of a template.
[
  "description"
  "host"
  "log"
  "result"
  "status"
  "time"
  "unit"
]
