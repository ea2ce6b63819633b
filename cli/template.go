package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// templates say what of a secret goes where: into variables, and into files in
// the errand's folder. They are made of what the user writes before anybody is
// asked for anything.
type templates struct {
	named string // --template; "": as the fields have it, if nothing else is said
	env   []pattern
	files []pattern
}

// pattern is the template of one variable or file.
type pattern struct {
	name string
	text string // Go text/template over the fields
}

// form is a set of templates that hallpass brings along, for secrets that have
// the fields. A variable that comes out empty is removed: an old one would
// not fit the new ones.
type form struct {
	name   string
	fields []string
	env    []pattern
	files  []pattern
}

// forms are the built-in templates, in the order in which they are tried.
// MySQL's has the fields of PostgreSQL's, so it has to be named.
var forms = []form{
	{
		name: "postgres", fields: []string{"username", "password"},
		env: []pattern{{"PGUSER", "{{.username}}"}, {"PGPASSWORD", "{{.password}}"}},
	},
	{
		name: "mysql", fields: []string{"username", "password"},
		env:   []pattern{{"MYSQL_USER", "{{.username}}"}, {"MYSQL_PWD", "{{.password}}"}, {"MYSQL_CNF", `{{file "my.cnf"}}`}},
		files: []pattern{{"my.cnf", "[client]\nuser={{json .username}}\npassword={{json .password}}\n"}},
	},
	{
		name: "aws", fields: []string{"access_key", "secret_key"},
		env: []pattern{
			{"AWS_ACCESS_KEY_ID", "{{.access_key}}"}, {"AWS_SECRET_ACCESS_KEY", "{{.secret_key}}"},
			{"AWS_SESSION_TOKEN", `{{or (optional "session_token") (optional "security_token") ""}}`}, {"AWS_PROFILE", ""},
		},
	},
	{
		name: "kubeconfig", fields: []string{"service_account_token"},
		env: []pattern{{"KUBECONFIG", `{{file "kubeconfig"}}{{with kubeconfig}}:{{.}}{{end}}`}},
		files: []pattern{{"kubeconfig", `apiVersion: v1
kind: Config
current-context: hallpass
contexts:
  - name: hallpass
    context: {cluster: {{json resource}}, user: hallpass, namespace: {{json (or (optional "service_account_namespace") "default")}}}
users:
  - name: hallpass
    user: {token: {{json .service_account_token}}}
`}},
	},
}

func formNames() []string {
	names := make([]string, len(forms))
	for i, f := range forms {
		names[i] = f.name
	}
	return names
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parseTemplates reads the flags of run.
func parseTemplates(named string, env, files []string) (templates, error) {
	t := templates{named: named}
	if named != "" && !slices.Contains(formNames(), named) {
		return t, usagef("--template %s is not one of %s", named, strings.Join(formNames(), ", "))
	}
	for _, s := range env {
		p, err := parsePattern("--env", s)
		if err != nil {
			return t, err
		}
		if !variableName.MatchString(p.name) {
			return t, usagef("--env %s: that is no name of a variable", p.name)
		}
		t.env = append(t.env, p)
	}
	for _, s := range files {
		p, err := parsePattern("--file", s)
		if err != nil {
			return t, err
		}
		if !filepath.IsLocal(p.name) || filepath.Clean(p.name) == "." {
			return t, usagef("--file %s is not a name inside the command's private folder", p.name).withHint("--file NAME=TEMPLATE, and $HALLPASS_DIR/NAME in the command")
		}
		p.name = filepath.Clean(p.name)
		t.files = append(t.files, p)
	}
	for _, list := range [][]pattern{t.env, t.files} {
		for i, p := range list {
			if slices.ContainsFunc(list[:i], func(q pattern) bool { return q.name == p.name }) {
				return t, usagef("%s is set twice", p.name)
			}
		}
	}
	return t, nil
}

// parsePattern reads NAME=TEMPLATE, or NAME=@FILE for a template in a file.
func parsePattern(flag, s string) (pattern, error) {
	name, text, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return pattern{}, usagef("%s %s is not like NAME=TEMPLATE", flag, s)
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		data, err := os.ReadFile(file)
		if err != nil {
			return pattern{}, fmt.Errorf("%s %s: %w", flag, name, err)
		}
		text = string(data)
	}
	p := pattern{name, text}
	if _, err := p.parse(&errand{}, nil); err != nil {
		return pattern{}, usagef("%s %s: %w", flag, name, err)
	}
	return p, nil
}

// parse compiles a pattern. Its functions are those of an errand.
func (p pattern) parse(e *errand, fields map[string]any) (*template.Template, error) {
	t, err := template.New(p.name).Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			data, err := json.Marshal(v)
			return string(data), err
		},
		"base64":     func(v any) string { return base64.StdEncoding.EncodeToString([]byte(text(v))) },
		"join":       join,
		"file":       func(name string) (string, error) { return e.file(name) },
		"dir":        func() string { return e.dir },
		"resource":   func() string { return e.short },
		"optional":   func(name string) any { return fields[name] },
		"kubeconfig": func() string { return e.kubeconfig },
	}).Parse(p.text)
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return t, nil
}

// join puts sep between the texts of a list.
func join(list any, sep string) (string, error) {
	items, ok := list.([]any)
	if !ok {
		return "", fmt.Errorf("join wants a list")
	}
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = text(item)
	}
	return strings.Join(parts, sep), nil
}

// fill makes of the fields what the errand's command gets.
func (t templates) fill(e *errand, fields map[string]any) error {
	env, files := t.env, t.files
	f, ok, err := t.form(fields)
	if err != nil {
		return err
	}
	if ok { // the user's own come last, and win
		own := func(list []pattern) func(pattern) bool {
			return func(p pattern) bool {
				return slices.ContainsFunc(list, func(q pattern) bool { return q.name == p.name })
			}
		}
		env = append(slices.DeleteFunc(slices.Clone(f.env), own(t.env)), t.env...)
		files = append(slices.DeleteFunc(slices.Clone(f.files), own(t.files)), t.files...)
	}
	for _, p := range files {
		e.files = append(e.files, p.name)
	}
	for _, p := range files {
		content, err := p.execute(e, fields)
		if err != nil {
			return err
		}
		path := filepath.Join(e.dir, p.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := writeFile(path, []byte(content)); err != nil {
			return err
		}
	}
	for _, p := range env {
		value, err := p.execute(e, fields)
		if err != nil {
			return err
		}
		if strings.ContainsRune(value, 0) {
			return failf(ExitError, "what comes out for %s can't be in a variable: put it into a --file", p.name)
		}
		if value == "" && slices.Contains(f.env, p) {
			e.unset = append(e.unset, p.name)
			continue
		}
		e.env = append(e.env, p.name+"="+value)
	}
	return nil
}

// form chooses the built-in templates.
func (t templates) form(fields map[string]any) (form, bool, error) {
	if t.named == "" && len(t.env)+len(t.files) > 0 {
		return form{}, false, nil
	}
	names := slices.Sorted(maps.Keys(fields))
	for _, f := range forms {
		if t.named != "" && f.name != t.named {
			continue
		}
		missing := slices.DeleteFunc(slices.Clone(f.fields), func(name string) bool { _, ok := fields[name].(string); return ok })
		switch {
		case len(missing) == 0:
			return f, true, nil
		case t.named != "":
			return form{}, false, failf(ExitError, "--template %s needs %s, and what Vault gave has %s", t.named, strings.Join(f.fields, " and "), strings.Join(names, ", "))
		}
	}
	return form{}, false, failf(ExitError, "what Vault gave has %s: say what goes where", strings.Join(names, ", ")).
		withHint("--env NAME='{{.%s}}', or --file NAME=TEMPLATE", names[0])
}

// execute fills in one pattern. What goes wrong is told without the values.
func (p pattern) execute(e *errand, fields map[string]any) (string, error) {
	t, err := p.parse(e, fields)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, fields); err != nil {
		why := err.Error()
		if i := strings.LastIndex(why, ">: "); i >= 0 {
			why = why[i+3:]
		}
		return "", failf(ExitError, "the template of %s: %s", p.name, why).withHint("what there is: %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	return b.String(), nil
}
