//go:build linux

package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// always answers every call with the same.
type always struct {
	status int
	header string
	body   []byte
}

func (w *always) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Request: r, Body: io.NopCloser(bytes.NewReader(w.body)),
		Header: http.Header{http.CanonicalHeaderKey(krl.SignatureHeader): {w.header}, "Date": {w.header}},
	}, nil
}

// FuzzTold: whatever answers instead of the service is refused with a code and one
// line that can be shown, or is what was asked for. What a CA of this host has
// signed and checkEnrolled takes is written as it was checked: a line for each, and
// sshd reads in it what we did.
func FuzzTold(f *testing.F) {
	ca, hostCA, hostKey, agent := newSigner(f), newSigner(f), newSigner(f), newSigner(f)
	public := func(s ssh.Signer) string { return statement.MarshalKey(s.PublicKey()) }
	now := time.Now()
	cert := userCert(f, hostCA, func(c *ssh.Certificate) {
		c.Key, c.CertType, c.KeyId, c.ValidPrincipals = hostKey.PublicKey(), ssh.HostCert, "hallpass-host:web-1", []string{"web-1"}
	})
	asked := access.Statement{Payload: "{}", Signature: "s"}
	good := access.Enrolled{
		Answers: asked.Hash(), AgentKey: public(agent), Host: "web-1", UserCAs: []string{public(ca)}, HostCAs: []string{public(hostCA)},
		Principals: map[string][]string{login: {"web-1/" + login, "web-2/" + login}}, Certificate: statement.MarshalKey(cert) + " hallpass-host:web-1",
		RenewAfter: now.UTC().Truncate(time.Second),
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		must(f, err)
		return data
	}
	with := func(change func(*access.Enrolled)) []byte {
		e := good
		change(&e)
		return encode(e)
	}
	f.Add(uint16(200), "", encode(good))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.Certificate = "ssh-rsa x\n# y\n" + e.Certificate + "\nz" }))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.Certificate = `no-pty,command="x" ` + e.Certificate }))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.UserCAs = append(e.UserCAs, public(hostCA)+"\n"+public(hostKey)) }))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.HostCAs = append(e.HostCAs, "\n"+public(ca)+"\n") }))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.Principals = map[string][]string{"../x": {"a/../x"}, "y": {"a\nb/y"}} }))
	f.Add(uint16(200), "", with(func(e *access.Enrolled) { e.Certificate = public(hostKey) }))
	list, signature := signedBy(ca, 1, now, 3)
	f.Add(uint16(200), krl.EncodeSignature(signature), list)
	f.Add(uint16(403), "", encode(access.Errorf(access.CodeForbidden, "not \x1b[2J\u202eyou\n").WithHint("\u200b%s", strings.Repeat("x", 1000))))
	f.Add(uint16(503), now.UTC().Format(http.TimeFormat), []byte(`{"code":"x"}`))
	f.Add(uint16(304), "", []byte(nil))
	f.Fuzz(func(t *testing.T, status uint16, header string, body []byte) {
		shown := func(what string, err error) {
			if access.CodeOf(err) == "" || access.CheckText("error", err.Error(), 2500) != nil {
				t.Errorf("%s: %q, with the code %q", what, err, access.CodeOf(err))
			}
			var e *access.Error
			if errors.As(err, &e) && access.CheckText("hint", e.Hint, 2500) != nil {
				t.Errorf("%s: the hint is %q", what, e.Hint)
			}
		}
		s := &service{url: "https://127.0.0.1:1", http: &http.Client{Transport: &always{100 + int(status)%900, header, body}}}
		var told access.Statement
		if err := s.post(t.Context(), "/v1/hosts", struct{}{}, &told); err != nil {
			shown("told", err)
		}
		if got, _, err := s.list(t.Context(), 0, time.Second); err != nil {
			shown("list", err)
		} else if len(got.List) > krl.MaxSize+1 {
			t.Errorf("a list of %d bytes", len(got.List))
		}
		if lines, err := s.extensions(t.Context(), nil); err != nil {
			shown("extensions", err)
		} else {
			for _, line := range lines {
				if g, err := signedGrant(line, []ssh.PublicKey{ca.PublicKey()}, now); err == nil {
					t.Errorf("%+v is taken for an extension", g)
				}
			}
		}

		signed, err := statement.SignData(ca, statement.EnrolledNamespace, body)
		must(t, err)
		j, err := openEnrolled(access.Statement{Payload: string(body), Signature: signed}, asked, agent.PublicKey(), func(ssh.PublicKey) error { return nil })
		if err == nil {
			err = checkEnrolled(j, hostKey.PublicKey(), now)
		}
		if err != nil {
			shown("signed", err)
			return
		}
		if j.Answers != asked.Hash() || j.AgentKey != public(agent) {
			t.Errorf("another question's answer is taken: %+v", j)
		}
		written := func(keys []string) {
			want, err := parseKeys(keys)
			must(t, err)
			file := filepath.Join(t.TempDir(), "keys")
			must(t, os.WriteFile(file, lines(keys), 0o600))
			got, err := readKeys(file)
			if err != nil || strings.Count(string(lines(keys)), "\n") != len(keys) || len(got) != len(want) {
				t.Fatalf("%q are checked as %d keys and read as %d (%v)", keys, len(want), len(got), err)
			}
			for i, key := range want {
				if !bytes.Equal(key.Marshal(), got[i].Marshal()) {
					t.Errorf("%q is written as another key", keys[i])
				}
			}
		}
		written(j.UserCAs)
		if j.Certificate != "" {
			written(j.HostCAs)
			if f := strings.Fields(j.Certificate); strings.Contains(j.Certificate, "\n") || len(f) < 2 || f[0]+" "+f[1] != statement.MarshalKey(mustCert(t, j.Certificate)) {
				t.Errorf("the certificate is written as %q", j.Certificate)
			}
		}
		for login, principals := range j.Principals {
			if filepath.Base(login) != login || !filepath.IsLocal(login) || strings.HasPrefix(login, ".") {
				t.Errorf("principals are written to %q", login)
			}
			for _, p := range principals {
				if !strings.HasSuffix(p, "/"+login) || len(strings.Fields(p)) != 1 || p[0] == '#' {
					t.Errorf("principal %q for %q", p, login)
				}
			}
		}
	})
}

func mustCert(t *testing.T, line string) *ssh.Certificate {
	t.Helper()
	cert, err := parseHostCert(line)
	must(t, err)
	return cert
}

// pipe is a connection that bytes come from.
type pipe struct {
	net.Conn
	*bytes.Reader
}

func (p pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// FuzzFiles: whatever stands in the host's own files and comes over its socket is
// refused, or is read as the same when it is written again. A list that no CA of
// this host has signed is never taken.
func FuzzFiles(f *testing.F) {
	ca := newSigner(f)
	l := Layout{Root: f.TempDir()}
	must(f, l.makeFolders(), write(l.userCAs(), ssh.MarshalAuthorizedKey(ca.PublicKey()), 0o644))
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		must(f, err)
		return data
	}
	cert := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(userCert(f, ca, nil))))
	f.Add(append([]byte("# CAs\n\n  "), ssh.MarshalAuthorizedKey(ca.PublicKey())...))
	f.Add([]byte(`cert-authority,principals="a b" ` + string(ssh.MarshalAuthorizedKey(ca.PublicKey()))))
	f.Add(encode(record{ID: "i", Certificate: cert, Extended: cert, Login: login, Source: "unknown", Opened: time.Unix(2e9, 0).UTC(), Monitor: -1}))
	f.Add(encode(record{Certificate: "x\n" + cert, Cgroup: "../.."}))
	f.Add(encode(Config{Service: "https://x", Host: "web-1", WarnBefore: "2m", BreakGlass: []string{"root"}, RenewAfter: time.Unix(2e9, 0).UTC()}))
	f.Add([]byte(`{"warn_before":"-1s"} {"host":1}`))
	f.Add([]byte(`{"warn_before":"1d","Host":"a","host":"b","other":1}`))
	list, signature := signedBy(ca, 1, time.Now(), 3)
	f.Add(encode(signedList{list, signature}))
	list, signature = signedBy(newSigner(f), 1, time.Now(), 3)
	f.Add(encode(signedList{list, signature}))
	f.Add([]byte(`{"op":"open","user":"root","auth_info":"publickey ssh-ed25519-cert-v01@openssh.com AAAA"}` + "\n{}"))
	f.Add([]byte(`{"allow":true,"why":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(file, data, 0o600))
		if keys, err := readKeys(file); err == nil {
			var text []byte
			for _, k := range keys {
				text = append(text, ssh.MarshalAuthorizedKey(k)...)
			}
			must(t, os.WriteFile(file, text, 0o600))
			if again, err := readKeys(file); err != nil || len(keys) == 0 || !slices.EqualFunc(again, keys, func(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }) {
				t.Errorf("%d keys are read, and again %d (%v)", len(keys), len(again), err)
			}
		}
		must(t, os.WriteFile(file, data, 0o600))
		if x, err := readRecord(file); err == nil {
			must(t, os.WriteFile(file, encodeOr(t, x.record), 0o600))
			again, err := readRecord(file)
			if err != nil || x.grant == nil || (x.longer == nil) != (x.Extended == "") || !bytes.Equal(encodeOr(t, again.record), encodeOr(t, x.record)) {
				t.Errorf("session %+v is read again as %+v (%v)", x, again, err)
			}
		}
		must(t, os.WriteFile(l.configFile(), data, 0o600))
		if c, err := loadConfig(l); err == nil {
			must(t, c.save(l))
			if again, err := loadConfig(l); err != nil || !reflect.DeepEqual(again, c) {
				t.Errorf("%+v is read again as %+v (%v)", c, again, err)
			}
			if d, err := c.warn(); err != nil || d < 0 {
				t.Errorf("warns %s before", d)
			}
		}
		must(t, os.WriteFile(l.signedKRL(), data, 0o600))
		if list, plain, err := (&lists{layout: l}).read(); err == nil {
			var s signedList
			must(t, json.Unmarshal(data, &s))
			if by, err := statement.VerifyData(plain, krl.Namespace, s.Signature); err != nil || list == nil || statement.MarshalKey(by) != statement.MarshalKey(ca.PublicKey()) {
				t.Errorf("a list is taken that no CA of this host has signed (%v)", err)
			}
		}
		var q question
		if err := readMessage(pipe{Reader: bytes.NewReader(data)}, &q); err == nil {
			var again question
			if err := readMessage(pipe{Reader: bytes.NewReader(append(encodeOr(t, q), '\n'))}, &again); err != nil || again != q {
				t.Errorf("%+v is asked again as %+v (%v)", q, again, err)
			}
		}
		var a answer
		if err := readMessage(pipe{Reader: bytes.NewReader(data)}, &a); err == nil && a.Allow && !bytes.Contains(bytes.ToLower(data), []byte("allow")) && !bytes.Contains(data, []byte(`\u`)) {
			t.Errorf("%q lets in", data)
		}
	})
}

func encodeOr(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

// FuzzSystem: what the kernel, sshd and PAM have in their files is read as it is
// meant, whatever name a process has chosen, and of PAM's text no line is lost that
// isn't ours.
func FuzzSystem(f *testing.F) {
	f.Add("sshd) R 1 (")
	f.Add("7 (a b) S 1 7 7 34816 7 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0\n")
	f.Add("25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
	f.Add("25 30 0:22 / /x rw - tmpfs - cgroup2\n - cgroup2\n1 2 3 4 /y - cgroup2 x")
	f.Add("25 30 0:22 / -\trw - cgroup2 cgroup2 rw\n")
	f.Add("12:cpu:/x\n0::/system.slice/ssh.service\n")
	f.Add("0::/../../x\n")
	f.Add("0::/a/../../../etc\n")
	f.Add("0::\n")
	f.Add("usepam yes\nhostkey /a\nhostkey /b\nrevokedkeys none\nx\n\n")
	f.Add("@include common-session\nsession required pam_env.so user_readenv=1\n")
	f.Add(pamBegin + "\nsession required pam_unix.so\n")
	f.Add(pamEnd + "\nx\n" + pamBegin + "\ny\n" + pamBegin + "\n" + pamEnd + "\nz")
	f.Add(pamBegin + "\nx\n" + pamBegin + "\n" + pamEnd + "\ny\n" + pamEnd + "\nsession required pam_env.so\n")
	f.Add("x" + pamBegin + "\nsession required pam_unix.so\n" + pamEnd + "\n")
	f.Add("session include \\\n  common-session\nsession required \\\n pam_env.so\n")
	f.Fuzz(func(t *testing.T, text string) {
		of := fmt.Sprintf("7 (%s) S 42 7 7 34816 7 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0\n", text)
		if st, err := parseStat([]byte(of)); err != nil || st != (stat{parent: 42, tty: 34816, start: 99}) {
			t.Errorf("by its name %q a process is %+v (%v)", text, st, err)
		}
		if st, err := parseStat([]byte(text)); err == nil {
			again := fmt.Sprintf("7 (x) S %d 7 7 %d 7 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0\n", st.parent, int32(uint32(st.tty)), st.start)
			if back, err := parseStat([]byte(again)); err != nil || back != st {
				t.Errorf("%+v is read again as %+v (%v)", st, back, err)
			}
		}
		if mount, err := parseMountinfo(text); err == nil {
			if again, err := parseMountinfo("1 2 0:3 / " + mount + " rw - cgroup2 cgroup2 rw"); err != nil || again != mount || !strings.Contains(text, mount) {
				t.Errorf("%q is mounted, and again %q (%v)", mount, again, err)
			}
		}
		const mount = "/sys/fs/cgroup"
		if c, err := parseCgroup(text, mount, 7); err == nil {
			if string(c) != mount && !strings.HasPrefix(string(c), mount+"/") {
				t.Errorf("the cgroup is %s", c)
			}
			if again, err := parseCgroup("0::/"+strings.TrimPrefix(strings.TrimPrefix(string(c), mount), "/"), mount, 7); err != nil || again != c {
				t.Errorf("the cgroup %s is read again as %s (%v)", c, again, err)
			}
		}
		set := parseSettings(text)
		var out strings.Builder
		for key, values := range set {
			for _, value := range values {
				out.WriteString(key + " " + value + "\n")
			}
		}
		if again := parseSettings(out.String()); !reflect.DeepEqual(again, set) {
			t.Errorf("settings %q are read again as %q", set, again)
		}

		const block = pamBegin + "\nsession required pam_exec.so quiet /hook\n" + pamEnd + "\n"
		if !strings.Contains(text, pamEnd) && removePAM(text) != text {
			t.Errorf("of\n%q\nis left\n%q", text, removePAM(text))
		}
		installed := installPAM(text, block)
		if strings.Count("\n"+installed, "\n"+block) != 1+strings.Count("\n"+removePAM(text), "\n"+block) {
			t.Errorf("the block isn't there once:\n%s", installed)
		}
		if fitPAM("", text) != nil {
			return // it is left alone
		}
		if again := installPAM(installed, block); again != installed {
			t.Errorf("installed again:\n%q\nis\n%q", installed, again)
		}
		if left := removePAM(installed); left != removePAM(text) && left != removePAM(text)+"\n" {
			t.Errorf("of\n%q\nis left\n%q", removePAM(text), left)
		}
	})
}
