package testsuite

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// cmdCall is a client of the service that isn't ours, and minds no rules.
func cmdCall(ts *testscript.TestScript, neg bool, args []string) {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	address := flags.String("service", ts.Getenv("SERVICE"), "")
	ca := flags.String("ca", "dev/service_ca.pub.pem", "")
	audience := flags.String("audience", "dev/service_ca.pub.pem", "")
	as := flags.String("as", ts.Getenv("HALLPASS_USER"), "")
	ago := flags.Duration("ago", 0, "")
	long := flags.Duration("for", time.Minute, "")
	times := flags.Int("times", 1, "")
	err := flags.Parse(args)
	usage(ts, neg, err == nil && flags.NArg() == 2, "call [flags] METHOD PATH")

	signer, err := ssh.ParsePrivateKey([]byte(ts.ReadFile(ts.Getenv("HALLPASS_KEY"))))
	ts.Check(err)
	der := func(file string) []byte {
		block, _ := pem.Decode([]byte(ts.ReadFile(file)))
		if block == nil {
			ts.Fatalf("%s is no certificate", file)
		}
		return block.Bytes
	}
	at := statement.Time(time.Now().Add(-*ago))
	st, err := statement.Sign(signer, access.Read{
		Header:   access.Header{Type: access.TypeRead, ID: statement.NewID(), Signer: *as, Time: at},
		Audience: access.Audience(der(*audience)), Until: at.Add(*long),
	})
	ts.Check(err)
	token, err := statement.Token(st)
	ts.Check(err)
	authority, err := x509.ParseCertificate(der(*ca))
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	defer client.CloseIdleConnections()
	var out strings.Builder
	for range *times {
		req, err := http.NewRequest(flags.Arg(0), *address+flags.Arg(1), nil) //nolint:noctx // the client has a timeout
		ts.Check(err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		ts.Check(err)
		body, err := io.ReadAll(resp.Body)
		ts.Check(err)
		ts.Check(resp.Body.Close())
		fmt.Fprintf(&out, "%d %s", resp.StatusCode, body)
	}
	_, _ = io.WriteString(ts.Stdout(), out.String())
}
