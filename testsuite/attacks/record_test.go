package attacks

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hallpass/access"
)

// lived makes roles that have granted something, and have stopped.
func lived(t *testing.T, namespace string) *roles {
	t.Helper()
	r := apart(t, namespace)
	r.goOn(t)
	return r
}

// goOn has something granted, with roles that stop again.
func (r *roles) goOn(t *testing.T) {
	t.Helper()
	r.start(t, "workflows")
	r.start(t, "issuer:ssh")
	a := r.ask(t, "alice", "ssh/web-1")
	await(t, r.Client, a, access.StatePending)
	must(t, say(t, r.Client, a, access.MessageDecision, r.decide(t, "bob", "bob", a, access.Approve)))
	await(t, r.Client, a, access.StateActive)
	must(t, say(t, r.Client, a, access.MessageRelease, r.word(t, "alice", access.TypeRelease, a)))
	await(t, r.Client, a, access.StateReleased)
	r.stop("workflows")
	r.stop("issuer:ssh")
}

// twin copies roles that have stopped, with their record and keys.
func (r *roles) twin(t testing.TB) *roles {
	t.Helper()
	s := *r.stack
	s.dir = t.TempDir()
	must(t, os.Chmod(s.dir, 0o700), filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(r.dir, path)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(s.dir, name), info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(s.dir, name), data, info.Mode().Perm())
	}))
	return &roles{stack: &s, env: slices.Concat(r.env, []string{"HALLPASS_CONFIG=" + filepath.Join(s.dir, "hallpass.yaml")}), run: map[string]*exec.Cmd{}}
}

// verify has the record verified by the program, and gives what it says.
func (r *roles) verify(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.program, append([]string{"audit", "verify"}, args...)...)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Whoever owns the database, and not the log's key, changes the record of a
// stack that has stopped. The program says which event isn't as it was.
func TestRecordTamperedWith(t *testing.T) {
	r := lived(t, "tampered")
	const k = 4 // of the events: neither the first nor the last
	const columns = "time, type, request, step, actor, requester, resource, hashes, leaf"
	move := func(from, to int) string { return fmt.Sprintf("UPDATE events SET idx = %d WHERE idx = %d", to, from) }
	for _, c := range []struct {
		name  string
		edits []string
		want  string
	}{
		{"nothing", nil, ""},
		{"edited", []string{"UPDATE events SET leaf = CAST(replace(CAST(leaf AS TEXT), '\"v\":1', '\"v\":2') AS BLOB) WHERE idx = 4"}, "has been changed"},
		{"edited in a column", []string{"UPDATE events SET actor = 'mallory' WHERE idx = 4"}, "column actor"},
		{"deleted", []string{"DELETE FROM events WHERE idx = 4"}, "is missing"},
		{"deleted, and the rest moved up", []string{
			"DELETE FROM events WHERE idx = 4", "UPDATE events SET idx = -idx WHERE idx > 4", "UPDATE events SET idx = -idx - 1 WHERE idx < 0",
		}, "not those"},
		{"inserted", []string{
			"UPDATE events SET idx = -idx - 2 WHERE idx >= 4", "UPDATE events SET idx = -idx - 1 WHERE idx < 0",
			"INSERT INTO events SELECT 4, " + strings.Replace(columns, "step", "step || 'x'", 1) + " FROM events WHERE idx = 3",
		}, "not those"},
		{"reordered", []string{move(4, 99), move(5, 4), move(99, 5)}, "not those"},
		{"reordered, contents alone", []string{
			"CREATE TEMP TABLE x AS SELECT idx, leaf FROM events WHERE idx IN (4, 5)",
			"UPDATE events SET leaf = (SELECT leaf FROM x WHERE x.idx = 9 - events.idx) WHERE idx IN (4, 5)",
		}, "has been changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := r.twin(t)
			db, err := sql.Open("sqlite", filepath.Join(s.dir, "audit.db"))
			must(t, err)
			db.SetMaxOpenConns(1) // so that temporary tables last
			for _, e := range c.edits {
				got, err := db.Exec(e)
				must(t, err)
				if n, err := got.RowsAffected(); !strings.HasPrefix(e, "CREATE") && (err != nil || n == 0) {
					t.Fatalf("%s changes nothing: %v", e, err)
				}
			}
			must(t, db.Close())
			out, err := s.verify(t)
			if len(c.edits) == 0 {
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return
			}
			if err == nil || !regexp.MustCompile(fmt.Sprintf(`event %d\b.*%s`, k, regexp.QuoteMeta(c.want))).MatchString(out) {
				t.Errorf("%v, and doesn't name event %d:\n%s", err, k, out)
			}
		})
	}
}

// Whoever owns the database and the log's key goes on with two copies of it, and
// shows one to each of two readers. Each is a good log by itself, and by the
// checkpoint from before; as soon as one has the other's checkpoint, it is found.
func TestRecordForked(t *testing.T) {
	here := lived(t, "forked")
	before := here.checkpoint(t)
	there := here.twin(t)
	here.goOn(t)
	there.goOn(t)
	mine, theirs := here.checkpoint(t), there.checkpoint(t)
	for _, c := range []struct {
		name, checkpoint string
		log              *roles
		good             bool
	}{
		{"before, here", before, here, true}, {"before, there", before, there, true},
		{"one's own, here", mine, here, true}, {"one's own, there", theirs, there, true},
		{"the other's, here", theirs, here, false}, {"the other's, there", mine, there, false},
	} {
		out, err := c.log.verify(t, "--since", c.checkpoint)
		if (err == nil) != c.good {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
		if !c.good && !strings.Contains(out, "checkpoint") {
			t.Errorf("%s: it doesn't say by what: %s", c.name, out)
		}
	}
}

// checkpoint is the file of the log's checkpoint of now.
func (r *roles) checkpoint(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "checkpoint")
	must(t, os.WriteFile(path, []byte(r.hallpass(t, "", "audit", "checkpoint")), 0o600))
	return path
}
