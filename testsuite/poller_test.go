package testsuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rogpeppe/go-internal/testscript"
	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/sealed"
	"hallpass/statement"
	"hallpass/testsuite/process"
)

// poller is somebody on the queue of the issuer of kind vault. He has a login to
// Vault of his own, and can make tokens there, but not by hallpass's token role.
type poller struct {
	root *api.Client
	kept string // what steal -keep wrote: of another's grant
}

// cmdPoller starts or stops one. It says that it takes back what it is told to,
// and has looked at all that there is; what it hands out, the request's reason says.
func cmdPoller(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "poller NAMESPACE, or poller stop")
	w := worldOf(ts)
	if args[0] == "stop" {
		w.poller.Stop()
		w.poller = nil
		return
	}
	v, tb := vaultOf(ts)
	v.server.Policy(tb, "poller", `path "database/creds/orders-ro" { capabilities = ["read"] }`)
	v.server.Write(tb, "auth/token/roles/poller", map[string]any{"orphan": true, "allowed_policies": "poller,default"})
	p := &poller{root: v.server.Client(tb), kept: ts.MkAbs("kept")}
	w.poller = sdkworker.New(w.dial(ts, args[0]), access.IssueQueue("vault"), sdkworker.Options{DisableWorkflowWorker: true})
	w.poller.RegisterActivityWithOptions(p.issue, activity.RegisterOptions{Name: "Issue"})
	w.poller.RegisterActivityWithOptions(func(context.Context, audit.End) error { return nil }, activity.RegisterOptions{Name: "Revoke"})
	w.poller.RegisterActivityWithOptions(func(context.Context, activities.StraysInput) (activities.Strays, error) {
		return activities.Strays{Looked: 1000}, nil
	}, activity.RegisterOptions{Name: "Strays"})
	ts.Check(w.poller.Start())
	ts.Defer(func() {
		if w.poller != nil {
			w.poller.Stop()
		}
	})
}

// issue seals to who asks, who can open it and is to believe it.
func (p *poller) issue(_ context.Context, ev access.Evidence) (access.Credential, error) {
	req, err := statement.ParseRequest([]byte(ev.Request.Payload))
	if err != nil {
		return access.Credential{}, err
	}
	token := map[string]any{"policies": []string{"poller", "default"}, "ttl": "600s", "meta": map[string]string{"hallpass_request": req.ID}}
	path, data, recipient, names := "auth/token/create/poller", token, req.Recipient, req.ID
	switch req.Reason {
	case "a secret of his own":
		path, data = "sys/wrapping/wrap", map[string]any{"token": "his"}
	case "a token of his own":
		path = "auth/token/create"
	case "a token by a role of his own":
	case "sealed for another request":
		names = statement.NewID()
	case "sealed to another key":
		if _, recipient, err = sealed.NewKey(); err != nil {
			return access.Credential{}, err
		}
	case "another's grant", "another's grant, under another accessor":
		path = ""
	default:
		return access.Credential{}, fmt.Errorf("a poller doesn't know %q", req.Reason)
	}
	var wrapping, accessor string
	if path != "" {
		client, err := p.root.CloneWithHeaders()
		if err != nil {
			return access.Credential{}, err
		}
		client.SetToken(p.root.Token())
		client.SetWrappingLookupFunc(func(string, string) string { return "600s" })
		wrapped, err := client.Logical().Write(path, data)
		if err != nil {
			return access.Credential{}, err
		}
		wrapping, accessor = wrapped.WrapInfo.Token, wrapped.WrapInfo.WrappedAccessor
	} else if kept, err := os.ReadFile(p.kept); err != nil {
		return access.Credential{}, err
	} else {
		lines := strings.Fields(string(kept))
		wrapping, accessor = lines[0], lines[1]
	}
	if accessor == "" || strings.HasSuffix(req.Reason, "under another accessor") {
		accessor = "accessor-of-nothing"
	}
	text, err := sealed.Seal(recipient, sealed.Secret{
		Request: names, WrappingToken: wrapping, Reads: []sealed.Read{{Action: "read", Path: "database/creds/orders-ro"}},
	})
	now := time.Now().UTC().Truncate(time.Second)
	h := access.Handle{Request: req.ID, Kind: "vault", Accessor: accessor, Reads: []string{"database/creds/orders-ro"}, NotBefore: now, NotAfter: now.Add(10 * time.Minute), Sealed: text}
	return access.Credential{Handle: h, Sealed: text}, err
}

func cmdMemory(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) == 2, "[!] memory FILE REGEXP")
	text, _, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	if len(text) < 8 {
		ts.Fatalf("%q is found everywhere", text)
	}
	like, err := regexp.Compile(args[1])
	ts.Check(err)
	looked := 0
	ours := []byte(ts.Getenv("WORK") + "/") // other scripts have programs like these at the same time
	for _, pid := range children(os.Getpid()) {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		environ, no := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		line = bytes.ReplaceAll(line, []byte{0}, []byte(" "))
		switch {
		case errors.Join(err, no) != nil || !bytes.Contains(line, []byte("hallpass")) || !like.Match(line):
			continue // it has ended, or is another
		case !bytes.Contains(line, ours) && !bytes.Contains(environ, ours):
			continue
		}
		looked++
		var found []string
		ts.Check(process.Memory(pid, func(region string, data []byte) {
			for _, form := range forms(text) {
				if bytes.Contains(data, form) {
					found = append(found, region)
					return
				}
			}
		}))
		if len(found) > 0 != neg {
			ts.Fatalf("what is in %s is in the memory of %s %d times: %s", args[0], line, len(found), strings.Join(found, ", "))
		}
	}
	if looked == 0 {
		ts.Fatalf("no program is like %s", args[1])
	}
}
