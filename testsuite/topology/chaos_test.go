package topology

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/chaos"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/process"
	"hallpass/testsuite/sshdtest"
)

// catalogOfVault is what there is of Vault's in it.
const catalogOfVault = "  " + chaos.Database + ": {labels: {env: prod}, path: database/creds, actions: {read: orders-ro}}\n"

// TestChaos plays a planned worst day on the topology: each process killed and
// stopped, the database restarted, disks full, the ways between the parts cut, and
// the issuers' clocks moved.
func TestChaos(t *testing.T) {
	if os.Getenv("HALLPASS_CHAOS_MINUTES") == "" {
		t.Skip("HALLPASS_CHAOS_MINUTES is not set; make chaos sets it")
	}
	s := &chaos.Stack{Login: sshdtest.User(t), Namespace: namespace}
	// A folder that is a disk of its own.
	disk := func(name string) string {
		dir, err := os.MkdirTemp("", "topology-"+name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		s.AddDisk(t, name, dir)
		return dir
	}
	w := furnishIn(t, disk("hallpass"), disk("postgres"))
	s.Program, s.Folders = filepath.Join(w.bin, "hallpass"), []string{w.dir}
	people := t.TempDir()
	var err error
	if s.People, err = devtest.Furnish(people, map[string]string{"policy.yaml": chaos.Policy(), "catalog.yaml": chaos.Catalog(s.Login) + catalogOfVault}, chaos.Groups()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"policy.yaml", "catalog.yaml", "directory.yaml"} {
		w.copy(filepath.Join(people, name), filepath.Join(w.dir, "public", name))
	}
	link := func(name, to string) *chaos.Link {
		l, err := chaos.NewLink(name, to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		s.Links = append(s.Links, l)
		return l
	}
	plan := w.operator("vault", "setup", "--print") // for this catalog
	if err := os.WriteFile(filepath.Join(w.dir, "vault-setup/plan.sh"), []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	w.furnishVault(link("vault to postgres", w.database()).Address())
	vault, _ := strings.CutPrefix(w.vault.Address, "https://")
	s.Vault = &chaos.Vault{
		Config: w.vault.Client(t).CloneConfig(),
		Login:  func(user, password string) error { return w.pg.Login(user, password, "orders") },
		Left:   w.left,
		Needs:  []string{"vault", "postgres", "people to vault", "vault to postgres"},
	}
	s.Vault.Config.Address = "https://" + link("people to vault", vault).Address()

	// What each process reaches the others by. Temporal's roles find each other
	// through the database, by addresses that are their own.
	w.beside = func(name string) []string {
		log := link(name+" to postgres", w.database()).Address()
		switch name {
		case "history", "matching", "frontend", "worker":
			return []string{"POSTGRES_ADDRESS=" + log}
		}
		user, _ := w.logUser(name) // the service is called by its role
		env := []string{
			"TEMPORAL_ADDRESS=" + link(name+" to temporal", w.frontend).Address(),
			"HALLPASS_AUDIT_DATABASE=" + w.logAs(user, log),
		}
		if name == "issuer-vault" {
			env = append(env, "HALLPASS_ISSUERS_VAULT_ADDRESS=https://"+link("issuer to vault", vault).Address())
		}
		return env
	}
	hosts, clients := link("hosts", w.service), link("people", w.frontend)
	w.run()

	for _, name := range []string{"history", "matching", "frontend", "workflows-1", "workflows-2", "issuer-1", "issuer-2", "issuer-vault", "service"} {
		p := w.programs[name]
		first := p.process
		s.Parts = append(s.Parts, &chaos.Part{Name: name, Pause: true, Clock: chaos.CanMoveClocks && strings.HasPrefix(name, "issuer"), Start: func() (chaos.Running, error) {
			if now := first; now != nil {
				first = nil
				return now, nil
			}
			next, err := process.Start(p.command(), func(line string) bool { return strings.Contains(line, p.began) })
			if err != nil {
				return nil, err
			}
			p.process = next
			return next, nil
		}})
	}
	// One that runs, and how it is started again.
	server := func(name string, pause bool, process func() *process.Process, again func() error) {
		running := true
		s.Parts = append(s.Parts, &chaos.Part{Name: name, Pause: pause, Start: func() (chaos.Running, error) {
			if running {
				running = false
				return process(), nil
			}
			if err := again(); err != nil {
				return nil, err
			}
			return process(), nil
		}})
	}
	server("postgres", false, w.pg.Process, func() error { return w.pg.Again(t) })
	server("vault", true, w.vault.Process, func() error { return w.vault.Again() })
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	for _, p := range s.Parts {
		if err := p.Keep(ctx, t.Logf); err != nil {
			t.Fatal(err)
		}
	}

	s.Env = append(os.Environ(), "HOME="+w.dir)
	for name, value := range w.env {
		s.Env = append(s.Env, name+"="+value)
	}
	s.Service, s.ServedBy = hosts.Address(), filepath.Join(w.dir, "service-ca/ca.pem")
	line, err := os.ReadFile(filepath.Join(w.dir, "ssh-ca/users.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if s.CA, _, _, _, err = ssh.ParseAuthorizedKey(line); err != nil {
		t.Fatal(err)
	}
	s.Temporal, err = client.NewLazyClient(client.Options{
		HostPort: clients.Address(), Namespace: namespace, Logger: devtest.Quiet(), ConnectionOptions: client.ConnectionOptions{TLS: w.tls()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Temporal.Close)
	chaos.Run(t, s, stop)
}
