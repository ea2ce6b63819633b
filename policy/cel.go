package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // conditions name time zones; a host without the database must not decide otherwise

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/goccy/go-yaml/ast"

	"hallpass/access"
)

// variable is one thing that conditions can speak of.
type variable struct {
	name  string
	typ   *cel.Type
	value func(*Input) ref.Val
}

// variables is all that conditions can speak of. Dotted names are variables
// of their own: nothing has to be built that a condition doesn't ask for.
var variables = []variable{
	{"request.id", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.ID) }},
	{"request.resource", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Resource) }},
	{"request.login", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Login) }},
	{"request.actions", cel.ListType(cel.StringType), func(in *Input) ref.Val { return strs(in.Request.Actions) }},
	{"request.command", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Command) }},
	{"request.duration", cel.DurationType, func(in *Input) ref.Val { return types.Duration{Duration: in.Request.Duration.Duration()} }},
	{"request.start", cel.TimestampType, func(in *Input) ref.Val { return types.Timestamp{Time: in.start()} }},
	{"request.reason", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Reason) }},
	{"request.ticket", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Ticket) }},
	{"request.extends", cel.StringType, func(in *Input) ref.Val { return types.String(in.Request.Extends) }},
	{"request.total", cel.DurationType, func(in *Input) ref.Val { return types.Duration{Duration: in.total()} }},
	{"request.emergency", cel.BoolType, func(in *Input) ref.Val { return types.Bool(in.Request.Mode == access.ModeEmergency) }},
	{"request.key_type", cel.StringType, func(in *Input) ref.Val { return types.String(in.keyType()) }},
	{"requester.name", cel.StringType, func(in *Input) ref.Val { return types.String(in.Requester.Name) }},
	{"requester.groups", cel.ListType(cel.StringType), func(in *Input) ref.Val { return strs(in.Requester.Groups) }},
	{"resource.name", cel.StringType, func(in *Input) ref.Val { return types.String(in.Resource.Name) }},
	{"resource.kind", cel.StringType, func(in *Input) ref.Val { return types.String(in.Resource.Kind) }},
	{"resource.labels", cel.MapType(cel.StringType, cel.StringType), func(in *Input) ref.Val { return newLabels(in.Resource.Labels) }},
	{"resource.logins", cel.ListType(cel.StringType), func(in *Input) ref.Val { return strs(in.Resource.Logins) }},
	{"resource.hosts", cel.ListType(cel.StringType), func(in *Input) ref.Val { return strs(in.Resource.Hosts) }},
	{"resource.actions", cel.ListType(cel.StringType), func(in *Input) ref.Val { return strs(in.Resource.Actions) }},
	{"now", cel.TimestampType, func(in *Input) ref.Val { return types.Timestamp{Time: in.Now.UTC()} }},
	{"context", cel.MapType(cel.StringType, cel.DynType), func(in *Input) ref.Val {
		if in.Context == nil {
			return types.DefaultTypeAdapter.NativeToValue(map[string]any{})
		}
		return types.DefaultTypeAdapter.NativeToValue(in.Context)
	}},
}

// slots finds a variable by its name.
var slots = func() map[string]int {
	m := make(map[string]int, len(variables))
	for i, v := range variables {
		m[v.name] = i
	}
	return m
}()

func strs(s []string) ref.Val {
	if s == nil {
		s = []string{}
	}
	return types.DefaultTypeAdapter.NativeToValue(s)
}

// scope is what one decision's conditions see. Values are made when first
// asked for.
type scope struct {
	in   *Input
	vals []ref.Val
}

func newScope(in *Input) *scope { return &scope{in: in} }

// ResolveName implements cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	i, ok := slots[name]
	if !ok {
		return nil, false
	}
	if s.vals == nil {
		s.vals = make([]ref.Val, len(variables))
	}
	if s.vals[i] == nil {
		s.vals[i] = variables[i].value(s.in)
	}
	return s.vals[i], true
}

// Parent implements cel.Activation.
func (s *scope) Parent() cel.Activation { return nil }

// condition is a compiled expression.
type condition struct {
	program cel.Program
	musts   []must
	whole   bool     // it holds if, and only if, all musts are met
	asks    []string // look-ups: the keys of context that it speaks of, or AllLookups
	total   bool     // it speaks of request.total
}

// holds evaluates the condition, as far as its musts don't say what comes of it.
func (c condition) holds(s *scope) (bool, error) {
	for _, m := range c.musts {
		if !m.met(s.in) {
			return false, nil
		}
	}
	if c.whole {
		return true, nil
	}
	v, _, err := c.program.Eval(s)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("result is %s, not bool", v.Type().TypeName())
	}
	return bool(b), nil
}

type compiler struct {
	env     *cel.Env
	windows map[string]window
}

func newCompiler(windows map[string]window) (*compiler, error) {
	c := &compiler{windows: windows}
	opts := []cel.EnvOption{
		c.withinFunction(),
		cel.ParserExpressionSizeLimit(MaxExpression),
		cel.ParserRecursionLimit(64),
		cel.RegexProgramSizeLimit(1000),
		cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateComprehensionNestingLimit(2)),
	}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v.name, v.typ))
	}
	var err error
	if c.env, err = cel.NewEnv(opts...); err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	return c, nil
}

// complaint is an error at a place inside an expression. The line counts from
// 1, the column from 0, as CEL does.
type complaint struct {
	line, column int
	message      string
}

func (c *compiler) compile(text string) (condition, []complaint) {
	parsed, issues := c.env.Parse(text)
	if issues.Err() != nil {
		return condition{}, complaints(issues)
	}
	if bad := unknown(parsed.NativeRep()); len(bad) > 0 {
		return condition{}, bad
	}
	if bad := c.windowed(parsed.NativeRep()); len(bad) > 0 {
		return condition{}, bad
	}
	checked, issues := c.env.Check(parsed)
	if issues.Err() != nil {
		return condition{}, complaints(issues)
	}
	if bad := labelled(checked.NativeRep()); len(bad) > 0 {
		return condition{}, bad
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return condition{}, []complaint{{1, 0, fmt.Sprintf("condition is %s, not bool", cel.FormatCELType(t))}}
	}
	program, err := c.env.Program(checked, cel.CostLimit(MaxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return condition{}, []complaint{{1, 0, err.Error()}}
	}
	found, whole := musts(checked.NativeRep().Expr())
	return condition{program, found, whole, asks(parsed.NativeRep()), totals(checked.NativeRep())}, nil
}

func complaints(issues *cel.Issues) []complaint {
	var out []complaint
	for _, e := range issues.Errors() {
		out = append(out, complaint{e.Location.Line(), e.Location.Column(), e.Message})
	}
	return out
}

// notes collects complaints about an expression's parts.
type notes struct {
	source *celast.SourceInfo
	out    []complaint
}

func (n *notes) say(e celast.Expr, format string, args ...any) {
	at := n.source.GetStartLocation(e.ID())
	n.out = append(n.out, complaint{at.Line(), at.Column(), fmt.Sprintf(format, args...)})
}

func visit(a *celast.AST, each func(celast.Expr)) {
	celast.PreOrderVisit(a.Expr(), celast.NewExprVisitor(each))
}

// unknown finds fields that request, requester and resource don't have, and
// time zones that don't exist: the one would get an unhelpful message from the
// type checker, the other would be noticed when the rule is first needed.
func unknown(a *celast.AST) []complaint {
	n := notes{source: a.SourceInfo()}
	whole := map[int64]bool{} // identifiers that a field is taken of
	visit(a, func(e celast.Expr) {
		switch e.Kind() {
		case celast.IdentKind:
			if known := fieldsOf(e.AsIdent()); len(known) > 0 && !whole[e.ID()] {
				n.say(e, "%s alone is not a value; it has %s", e.AsIdent(), strings.Join(known, ", "))
			}
		case celast.SelectKind:
			sel := e.AsSelect()
			if sel.Operand().Kind() != celast.IdentKind {
				return
			}
			root := sel.Operand().AsIdent()
			known := fieldsOf(root)
			whole[sel.Operand().ID()] = true
			switch {
			case len(known) == 0:
			case !slices.Contains(known, sel.FieldName()):
				n.say(e, "%s has no field %q; it has %s", root, sel.FieldName(), strings.Join(known, ", "))
			case sel.IsTestOnly():
				n.say(e, "%s.%s is always there; has() is for labels and context", root, sel.FieldName())
			}
		case celast.CallKind:
			call := e.AsCall()
			if !call.IsMemberFunction() || !strings.HasPrefix(call.FunctionName(), "get") {
				return
			}
			for _, arg := range call.Args() {
				zone, ok := literal(arg)
				if !ok {
					continue
				}
				if _, err := location(zone); err != nil && !offset(zone) {
					n.say(arg, "unknown time zone %q", zone)
				}
			}
		}
	})
	return n.out
}

// labelled finds uses of the labels as a whole, in which "an absent label is
// an empty text" would have no clear meaning.
func labelled(a *celast.AST) []complaint {
	n := notes{source: a.SourceInfo()}
	fine := map[int64]bool{}
	visit(a, func(e celast.Expr) {
		switch e.Kind() {
		case celast.IdentKind:
			if e.AsIdent()+"." == mustLabel && !fine[e.ID()] {
				n.say(e, "labels can be looked up, counted and gone through, but not used as a whole")
			}
		case celast.SelectKind:
			fine[e.AsSelect().Operand().ID()] = true
		case celast.ComprehensionKind:
			fine[e.AsComprehension().IterRange().ID()] = true
		case celast.CallKind:
			call := e.AsCall()
			switch args := call.Args(); call.FunctionName() {
			case operators.Index:
				fine[args[0].ID()] = true
			case operators.In:
				fine[args[1].ID()] = true
			case overloads.Size:
				for _, arg := range args {
					fine[arg.ID()] = true
				}
				if call.IsMemberFunction() {
					fine[call.Target().ID()] = true
				}
			}
		}
	})
	return n.out
}

// offset says whether s is a fixed offset from UTC, such as "-08:00".
func offset(s string) bool {
	_, err := time.Parse("-07:00", "+"+strings.TrimLeft(s, "+-"))
	return err == nil
}

func fieldsOf(root string) []string {
	var out []string
	for _, v := range variables {
		if f, ok := strings.CutPrefix(v.name, root+"."); ok {
			out = append(out, f)
		}
	}
	return out
}

func literal(e celast.Expr) (string, bool) {
	if e.Kind() != celast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// expression reads and compiles a condition. Complaints are placed where they
// stand in the file, as far as the way of writing lets us know: exactly in
// plain and quoted one-line text and in literal blocks, else at the beginning.
func (r *reader) expression(n node, c *compiler) (string, condition) {
	var text string
	at, exact := r.at(n), true
	switch v := n.(type) {
	case *ast.BoolNode: // "when: true" is a fine condition
		text = v.GetToken().Value
	case *ast.StringNode:
		text = v.Value
		origin := strings.TrimSpace(v.GetToken().Origin)
		if strings.ContainsAny(origin, "\n\\") || strings.Contains(origin, "''") {
			exact = false
		}
		if strings.HasPrefix(origin, "'") || strings.HasPrefix(origin, `"`) {
			at.column++
		}
	case *ast.LiteralNode:
		text = v.Value.Value
		exact = strings.HasPrefix(v.Start.Value, "|")
		if exact {
			at = position{v.Start.Position.Line + 1, indent(v.Value.GetToken().Origin) + 1}
		}
	default:
		text = r.text(n, "condition")
		if text == "" {
			return "", condition{}
		}
	}
	if len(text) > MaxExpression {
		r.fail(n, "condition is longer than %d bytes", MaxExpression)
		return "", condition{}
	}
	if strings.TrimSpace(text) == "" {
		r.fail(n, "condition is empty; write true if it always applies")
		return "", condition{}
	}
	cond, bad := c.compile(text)
	for _, b := range bad {
		where := at
		if exact && b.line > 1 {
			where.line += b.line - 1
			where.column += b.column
		} else if exact {
			where.column += max(b.column, 0)
		}
		r.failAt(where, "%s", b.message)
	}
	return text, cond
}

// indent is the number of spaces that the first line of text begins with.
func indent(s string) int {
	s = strings.TrimLeft(s, "\n")
	return len(s) - len(strings.TrimLeft(s, " "))
}

// start is when the grant would begin at the earliest.
func (in *Input) start() time.Time {
	if in.Request.Start != nil {
		return in.Request.Start.UTC()
	}
	return in.Now.UTC()
}

// total is how long the grant would last, with those that it extends.
func (in *Input) total() time.Duration {
	long := in.Request.Duration.Duration()
	if e := in.Extends; e != nil {
		long += e.End.Sub(e.Begin)
	}
	return long
}

// keyType is the type of the key to certify, such as "ssh-ed25519".
func (in *Input) keyType() string {
	t, _, _ := strings.Cut(in.Request.PublicKey, " ")
	return t
}

// labels is a map[string]string in which an absent label reads as "". It says
// so truthfully where it is asked: has(resource.labels.x) and "x" in
// resource.labels are false. It is deliberately not a traits.Mapper, for which
// the interpreter would call an absent key an error.
type labels struct {
	ref.Val // the map itself
	m       map[string]string
}

var _ interface {
	traits.Container
	traits.Indexer
	traits.FieldTester
	traits.Iterable
	traits.Sizer
} = labels{}

func newLabels(m map[string]string) labels {
	if m == nil {
		m = map[string]string{}
	}
	return labels{types.DefaultTypeAdapter.NativeToValue(m), m}
}

// Get implements traits.Indexer.
func (l labels) Get(key ref.Val) ref.Val {
	k, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	return types.String(l.m[string(k)])
}

// IsSet implements traits.FieldTester.
func (l labels) IsSet(key ref.Val) ref.Val { return l.Contains(key) }

// Contains implements traits.Container.
func (l labels) Contains(key ref.Val) ref.Val { return l.Val.(traits.Container).Contains(key) }

// Iterator implements traits.Iterable.
func (l labels) Iterator() traits.Iterator { return l.Val.(traits.Iterable).Iterator() }

// Size implements traits.Sizer.
func (l labels) Size() ref.Val { return l.Val.(traits.Sizer).Size() }
