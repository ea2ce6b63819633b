package worker

// The files that Dev makes at its first start: examples to edit. They are
// templates over an example.

const configExample = `# hallpass.yaml: where things are. Paths are relative to this file.
# Every setting: docs/configuration.md, or hallpass config show.

temporal:
  address: {{.Address}}
  namespace: default
ui: {{.UI}}

policy: policy.yaml        # what is allowed
directory: directory.yaml  # who is who
catalog: catalog.yaml      # what there is to ask for

audit:
  database: audit.db
  key: audit.key
  public_key: audit.pub

issuers:
  ssh:
    key: "file:ssh_ca"
    host_key: "file:ssh_host_ca"   # certifies hosts

service:
  address: {{.Service}}    # hosts come here over HTTPS, and know it by service_ca.pub.pem

client:
  user: {{yaml .You}}
{{- if .YourKey}}
  key: {{yaml .YourKey}}
{{- end}}
`

const policyExample = `# policy.yaml: what a request takes. Order never matters: no rule that matches
# means denied, any rule that denies wins, and what the others ask for is
# asked for together. A change counts from the moment the file is saved:
#   hallpass policy check      hallpass policy explain ssh/web-1 --for 1h
locks: {groups: [sre]}        # who may lock people and hosts out: hallpass lock user NAME
hosts: {enroll: [dev, sre]}   # who may take hosts in: hallpass host token NAME

rules:
  # Production takes a reason and one approval by somebody in sre.
  - name: production
    when: resource.kind == "ssh" && resource.labels.env == "prod" && "dev" in requester.groups
    max_duration: 8h
    require: {reason: true}
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 1h
    revoke: [sre]
    ssh: {extensions: [permit-pty]}

  # The sandbox is open to developers, and every visit is still on record.
  - name: sandbox
    when: resource.kind == "ssh" && resource.labels.env == "dev" && "dev" in requester.groups
    max_duration: 4h
    approvals: none
    ssh: {extensions: [permit-pty, permit-port-forwarding]}

  # To try a deny: uncomment, save, and ask for ssh/web-1.
  # - name: freeze
  #   when: resource.labels.env == "prod"
  #   deny: production is frozen
`

const directoryExample = `# directory.yaml: who is who, and with which keys they sign. A statement is as
# good as the key under it: whoever can change this file can be anybody.
users:
  {{yaml .You}}:
    groups: [dev]
    keys:
{{- range .Keys}}
      - {{.}}
{{- end}}

  # An example, so that you can try both sides; the private key is in
  # people/{{.Other}}/id. To act as {{.Other}}:
  #   HALLPASS_USER={{.Other}} HALLPASS_KEY={{.Dir}}/people/{{.Other}}/id hallpass pending
  {{yaml .Other}}:
    groups: [sre]
    keys:
      - {{.OtherKey}}
`

const catalogExample = `# catalog.yaml: what there is to ask for.
resources:
  ssh/sandbox:
    description: a machine to play with
    labels: {env: dev}
    logins: [{{yaml .Login}}]
    hosts: [sandbox]         # as typed after ssh
    address: 127.0.0.1:22    # where that is; without it, the first host

  ssh/web-1:
    description: first web server
    labels: {env: prod}      # the policy speaks of labels
    logins: [{{yaml .Login}}]     # accounts that may be asked for
    hosts: [web-1]
    address: 127.0.0.1:22

# To let a real machine in on this: add it above, with its logins and its
# address; then hallpass host token NAME, and on the machine hallpass-host enroll.
# From then on an early end of a grant reaches it at once, and ends sessions.
# Without hallpass-host, do on the machine what this says, line by line:
#       hallpass ca show --host web-1
# and then: hallpass ssh {{.Login}}@web-1
`
