package policy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Problem is something wrong at one place of a file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // in characters, from 1
	Message string `json:"message"`
}

func (p Problem) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems is everything found wrong with a file, in the file's order. As an
// error it is one line: the first, and how many more there are.
type Problems []Problem

func (p Problems) Error() string {
	switch len(p) {
	case 0:
		return "no problems"
	case 1:
		return p[0].Error()
	}
	return fmt.Sprintf("%v (and %d more)", p[0], len(p)-1)
}

// maxProblems is where reading stops: nobody reads on.
const maxProblems = 50

type (
	node       = ast.Node
	stringNode = ast.StringNode
	position   struct{ line, column int }
	fields     map[string]func(node)
)

// reader walks a YAML document and writes down whatever it can't accept, with
// its place. It takes the part of YAML that people write by hand: mappings,
// sequences and scalars. Anchors, aliases, merge keys, tags and several
// documents in one file are refused, so that what stands at a place in the
// file is what counts there.
type reader struct {
	name     string
	problems Problems
}

func (r *reader) full() bool { return len(r.problems) >= maxProblems }

func (r *reader) failAt(at position, format string, args ...any) {
	if r.full() {
		return
	}
	msg := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	r.problems = append(r.problems, Problem{File: r.name, Line: max(at.line, 1), Column: max(at.column, 1), Message: msg})
}

func (r *reader) fail(n node, format string, args ...any) { r.failAt(r.at(n), format, args...) }

// check notes err, if it is one, at n.
func (r *reader) check(n node, err error) {
	if err != nil {
		r.fail(n, "%v", err)
	}
}

// at is where a node begins.
func (r *reader) at(n node) position {
	if m, ok := n.(ast.MapNode); ok {
		if it := m.MapRange(); it.Next() {
			return r.at(it.Key())
		}
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return position{1, 1}
	}
	p := n.GetToken().Position
	return position{p.Line, p.Column}
}

// parse reads the one document that data holds. Nil means problems.
func (r *reader) parse(data []byte) node {
	start := position{1, 1}
	switch {
	case len(data) > MaxFile:
		r.failAt(start, "file is larger than %d bytes", MaxFile)
		return nil
	case !utf8.Valid(data):
		r.failAt(start, "file is not valid UTF-8")
		return nil
	}
	if i := control.FindIndex(data); i != nil {
		line := 1 + bytes.Count(data[:i[0]], []byte("\n"))
		r.failAt(position{line, 1}, "line has the control character %U", data[i[0]])
		return nil
	}
	if i := blankLines.FindIndex(data); i != nil {
		r.failAt(position{2 + bytes.Count(data[:i[0]], []byte("\n")), 1}, "more than 100 empty lines begin here")
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if !r.glance(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		at, msg := start, err.Error()
		var ye yaml.Error
		if errors.As(err, &ye) {
			msg = ye.GetMessage()
			if t := ye.GetToken(); t != nil && t.Position != nil {
				at = position{t.Position.Line, t.Position.Column}
			}
		}
		msg, _, _ = strings.Cut(msg, "\n")
		if conditionLine.MatchString(lineOf(data, at.line)) {
			msg += "; put conditions that begin with a quote or bracket, or have a colon in them, in quotes or behind a |"
		}
		r.failAt(at, "not YAML: %s", msg)
		return nil
	}
	var body node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			r.fail(d.Body, "a second document in the same file")
			return nil
		}
		body = d.Body
	}
	if body == nil {
		r.failAt(start, "file is empty")
	}
	return body
}

// control is what doesn't belong into a text file. A carriage return belongs
// before a line feed.
var control = regexp.MustCompile(`[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?:[^\n]|\z)`)

// conditionLine is a line that holds a condition, roughly.
var conditionLine = regexp.MustCompile(`\b(when|auto):`)

// lineOf is one line of data, from 1, or "" if it isn't there.
func lineOf(data []byte, line int) string {
	lines := strings.SplitN(string(data), "\n", line+1)
	if line < 1 || line > len(lines) {
		return ""
	}
	return lines[line-1]
}

// Bounds on how deep things may nest, and how many there may be side by side.
// The parser recurses, and takes a square of time for the entries of a mapping,
// for commas and for dashes with nothing behind them, so they have to hold
// before it starts. Lists of one item a line, such as the rules, it reads in
// one go.
const (
	maxDepth  = 16   // brackets inside each other, dashes in one line
	maxIndent = 64   // columns before a line's first word
	maxFields = 256  // of a mapping of one field a line
	maxInline = 1000 // commas between one pair of outer brackets
)

// blankLines are more empty lines than anybody needs. The lexer takes a square
// of time for them where they are in a text of several lines.
var blankLines = regexp.MustCompile(`(\n[ \t\r]*){102}`)

// glance looks at the words of the file before they are put together.
func (r *reader) glance(tokens token.Tokens) bool {
	brackets, dashes, commas, line := 0, 0, 0, 0
	var fields [maxIndent + 2]int // by column, of the mapping that is being read there
	for i, t := range tokens {
		at := position{t.Position.Line, t.Position.Column}
		if at.line != line {
			line, dashes = at.line, 0
			if brackets == 0 && at.column > maxIndent && t.Type != token.CommentType {
				r.failAt(at, "line is indented by more than %d columns", maxIndent)
				return false
			}
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			if brackets++; brackets == 1 {
				commas = 0
			}
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.CollectEntryType:
			if commas++; commas > maxInline {
				r.failAt(at, "more than %d entries in brackets; write them one a line", maxInline)
				return false
			}
		case token.SequenceEntryType:
			dashes++
			if i+1 == len(tokens) || tokens[i+1].Position.Line != at.line || tokens[i+1].Type == token.CommentType {
				r.failAt(at, "list item is missing behind the dash")
				return false
			}
			clear(fields[min(at.column+1, len(fields)):]) // a new item begins
		case token.MappingValueType:
			column := at.column
			if i > 0 && tokens[i-1].Position.Line == at.line {
				column = tokens[i-1].Position.Column
			}
			if brackets > 0 || column >= len(fields) {
				break
			}
			clear(fields[column+1:]) // and so do the mappings inside
			if fields[column]++; fields[column] > maxFields {
				r.failAt(at, "more than %d fields", maxFields)
				return false
			}
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.MappingKeyType, token.DirectiveType, token.TagType:
			r.failAt(at, "%q has a meaning in YAML that is not supported here; put the text in quotes", wording.Short(strings.TrimSpace(t.Value)))
			return false
		case token.InvalidType:
			r.failAt(at, "not YAML: %s", t.Error)
			return false
		}
		if brackets > maxDepth || dashes > maxDepth {
			r.failAt(at, "lists and mappings are nested more than %d deep", maxDepth)
			return false
		}
	}
	return true
}

// object reads a mapping with the given fields, each at most once.
func (r *reader) object(n node, what string, known fields, required ...string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		r.fail(n, "%s must be a mapping with %s%s", what, list(known), r.but(n))
		return
	}
	seen := map[string]bool{}
	for it := m.MapRange(); it.Next(); {
		key := it.Key()
		k, ok := key.(*ast.StringNode)
		if !ok {
			r.fail(key, "%s has a key that is not a plain name", what)
			continue
		}
		read, ok := known[k.Value]
		switch {
		case !ok:
			r.fail(key, "unknown field %q in %s; known are %s", wording.Short(k.Value), what, list(known))
		case seen[k.Value]:
			r.fail(key, "%s is there twice", k.Value)
		default:
			seen[k.Value] = true
			v := it.Value()
			if _, null := v.(*ast.NullNode); null || v == nil {
				r.fail(key, "%s is empty", k.Value)
				continue
			}
			read(v)
		}
	}
	for _, f := range required {
		if !seen[f] {
			r.fail(n, "%s has no %s", what, f)
		}
	}
}

// list reads a sequence. It is nil where n isn't one.
func (r *reader) list(n node, what string) []node {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fail(n, "%s must be a list%s", what, r.but(n))
		return nil
	}
	return append([]node{}, s.Values...)
}

// text reads a string. Numbers and booleans are not strings: whoever means
// the string "010" has to say so.
func (r *reader) text(n node, what string) string {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	}
	r.fail(n, "%s must be text%s", what, r.but(n))
	return ""
}

func (r *reader) boolean(n node, what string) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		r.fail(n, "%s must be true or false%s", what, r.but(n))
		return false
	}
	return b.Value
}

// count reads an integer from 1 to most.
func (r *reader) count(n node, what string, most int) int {
	if i, ok := n.(*ast.IntegerNode); ok {
		if v, ok := i.Value.(uint64); ok && v >= 1 && v <= uint64(most) {
			return int(v)
		}
	}
	r.fail(n, "%s must be a number from 1 to %d", what, most)
	return 1
}

func (r *reader) duration(n node, what string, least, most time.Duration) time.Duration {
	s := r.text(n, what)
	if s == "" {
		return 0
	}
	d, err := access.ParseDuration(s)
	switch {
	case err != nil:
		r.fail(n, "%s: %v", what, err)
	case d < least || d > most:
		r.fail(n, "%s is %s, not %s to %s", what, access.ShortDuration(d), access.ShortDuration(least), access.ShortDuration(most))
	}
	return d
}

// names reads a list of at least one name, such as groups. They come back
// sorted.
func (r *reader) names(n node, what string) []string {
	items := r.list(n, what)
	if items == nil {
		return nil
	}
	if len(items) == 0 || len(items) > MaxGroups {
		r.fail(n, "%s has %d names, not 1 to %d", what, len(items), MaxGroups)
	}
	var out []string
	for _, item := range items {
		s := r.text(item, what)
		if s == "" {
			continue
		}
		if err := access.CheckName(what, s); err != nil {
			r.check(item, err)
		} else if slices.Contains(out, s) {
			r.fail(item, "%s names %q twice", what, s)
		}
		out = append(out, s)
	}
	return sorted(out)
}

// but says what stands where something else was expected.
func (r *reader) but(n node) string {
	switch n.(type) {
	case ast.MapNode:
		return ", not a mapping"
	case *ast.SequenceNode:
		return ", not a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return fmt.Sprintf("; put %s in quotes if that is meant", wording.Short(n.GetToken().Value))
	}
	return ""
}

func list(f fields) string { return strings.Join(slices.Sorted(maps.Keys(f)), ", ") }
