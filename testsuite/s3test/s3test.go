// Package s3test runs real S3 servers for tests: Versity's S3 Gateway, which is
// built from the module in testsuite/s3. Each has a folder, a port and keys of its own.
//
// `make s3` builds bin/s3-for-tests. Where it is missing, tests that need it are
// skipped, unless CI is set or HALLPASS_S3_BIN says where it has to be.
package s3test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallpass/testsuite/process"
)

const (
	// Region is the one that servers take signatures for.
	Region = "eu-test-1"

	timeout = time.Minute // far more than it takes on a busy machine
)

// Key is an access key.
type Key struct{ ID, Secret string }

// String is the line of a file for audit.publish_authorization.
func (k Key) String() string { return k.ID + " " + k.Secret }

// Server is one.
type Server struct {
	Root Key // may do everything
	User Key // may do what the policy of a bucket says

	address string
	objects string // folder
	process *process.Process
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{Root: Key{"ROOT" + rand.Text(), rand.Text()}, User: Key{"USER" + rand.Text(), rand.Text()}}
	bin, dir := process.Built(t, "HALLPASS_S3_BIN", "s3"), t.TempDir()
	at := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.objects = at("objects")
	versions, accounts := at("versions"), at("accounts")
	data, err := json.Marshal(map[string]any{"accessAccounts": map[string]any{
		s.User.ID: map[string]string{"access": s.User.ID, "secret": s.User.Secret, "role": "user"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(accounts, "users.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	process.TryPorts(t, func(port int) error {
		s.address = "127.0.0.1:" + strconv.Itoa(port)
		cmd := exec.Command(bin, "--port", s.address, "--region", Region, "--iam-dir", accounts, "--health", "/health",
			"posix", "--versioning-dir", versions, s.objects)
		cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + s.Root.ID, "ROOT_SECRET_ACCESS_KEY=" + s.Root.Secret}
		var err error
		if s.process, err = process.Start(cmd, func(string) bool { return true }); err != nil {
			return err
		}
		return s.healthy()
	})
	t.Cleanup(func() {
		s.process.Kill()
		if t.Failed() {
			t.Logf("log of the S3 server:\n%s", s.Log())
		}
	})
	return s
}

// healthy waits until it answers.
func (s *Server) healthy() error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; {
		answer, err := http.Get("http://" + s.address + "/health")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", answer.Status)
		}
		if time.Now().After(deadline) {
			s.process.Kill()
			return fmt.Errorf("the S3 server isn't healthy after %s: %w\n%s", timeout, err, s.Log())
		}
		select {
		case <-s.process.Done():
			return fmt.Errorf("the S3 server has ended: %s", s.Log())
		case <-tick.C:
		}
	}
}

// Bucket makes a bucket that keeps versions, in which User may do what docs/operate.md
// says that publishing takes.
func (s *Server) Bucket(t testing.TB, name string) {
	t.Helper()
	allow := func(actions []string, resource string) map[string]any {
		return map[string]any{
			"Effect": "Allow", "Principal": map[string]any{"AWS": []string{s.User.ID}},
			"Action": actions, "Resource": "arn:aws:s3:::" + resource,
		}
	}
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{
		allow([]string{"s3:GetObject", "s3:PutObject"}, name+"/*"), allow([]string{"s3:ListBucket"}, name),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ query, body string }{
		{"", ""},
		{"?versioning=", `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>`},
		{"?policy=", string(policy)},
	} {
		if status, answer := s.Do(t, s.Root, http.MethodPut, "/"+name+r.query, r.body); status/100 != 2 {
			t.Fatalf("PUT %s: %d %s", r.query, status, answer)
		}
	}
}

// Place is that of an object, as in audit.publish.
func (s *Server) Place(bucket, key string) string {
	return "s3://" + bucket + "/" + key + "?region=" + Region + "&endpoint=http://" + s.address
}

// File is where an object lies on the server's disk.
func (s *Server) File(bucket, key string) string { return filepath.Join(s.objects, bucket, key) }

// Do sends a request that isn't signed by hallpass's code but by curl's, and
// returns the status and the answer.
func (s *Server) Do(t testing.TB, by Key, method, path, body string) (status int, answer string) {
	t.Helper()
	args := []string{
		"--silent", "--show-error", "--max-time", "60", "--config", "-", "--request", method, "--write-out", "\n%{http_code}",
		"--aws-sigv4", "aws:amz:" + Region + ":s3", "--header", fmt.Sprintf("X-Amz-Content-Sha256: %x", sha256.Sum256([]byte(body))),
	}
	if body != "" {
		args = append(args, "--header", "Content-Type: application/octet-stream", "--data-binary", body)
	}
	cmd := exec.Command("curl", append(args, "http://"+s.address+path)...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("user = %q\n", by.ID+":"+by.Secret))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl %s %s: %v", method, path, err)
	}
	end := strings.LastIndex(string(out), "\n")
	if status, err = strconv.Atoi(string(out[end+1:])); err != nil {
		t.Fatalf("curl %s %s: %s", method, path, out)
	}
	return status, string(out[:end])
}

// Log is what the server has written.
func (s *Server) Log() string { return s.process.Output() }
