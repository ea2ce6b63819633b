package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// What OCSF 1.5.0 says of the classes that we write and of what is in them, as
// far as we might use it: of each attribute its type, with "!" where it is
// required (https://github.com/ocsf/ocsf-schema, tag v1.5.0: events/base_event.json,
// events/iam/*.json, objects/*.json, dictionary.json; https://schema.ocsf.io/1.5.0).
// An attribute that isn't here is taken for one that isn't there: whoever adds one
// looks it up. That privileges, the product and resources have names is our own
// demand, and so is that an event says what was done and how severe it is: by a
// known activity that has a name, and none of the severities Unknown and Other.
const (
	ocsfBase = `activity_id:int! activity_name:string category_name:string category_uid:int! class_name:string class_uid:int!
		count:int duration:int end_time:time message:string metadata:metadata! raw_data:string severity:string severity_id:int!
		start_time:time status:string status_code:string status_detail:string status_id:int time:time! timezone_offset:int
		type_name:string type_uid:int! unmapped:object actor:actor src_endpoint:network_endpoint `
)

var (
	ocsfSchema = map[string]string{
		"Account Change": ocsfBase + "user:user! user_result:user",
		"Authentication": ocsfBase + `auth_protocol:string auth_protocol_id:int dst_endpoint:network_endpoint is_cleartext:bool is_mfa:bool
			is_new_logon:bool is_remote:bool logon_type:string logon_type_id:int session:session user:user!`,
		"Entity Management":      ocsfBase + "comment:string entity:managed_entity! entity_result:managed_entity",
		"User Access Management": ocsfBase + "privileges:[]string! resources:[]resource_details user:user!",

		"account":          "name:string type:string type_id:int uid:string",
		"actor":            "app_name:string app_uid:string session:session user:user",
		"managed_entity":   "data:object name:string type:string type_id:int uid:string user:user version:string",
		"metadata":         "correlation_uid:string event_code:string log_name:string log_provider:string log_version:string logged_time:time modified_time:time original_time:string processed_time:time product:product! sequence:int uid:string version:string!",
		"network_endpoint": "domain:string hostname:string ip:ip name:string port:port svc_name:string type:string type_id:int uid:string",
		"product":          "name:string! uid:string vendor_name:string! version:string",
		"resource_details": "name:string! type:string uid:string version:string",
		"session":          "created_time:time credential_uid:string expiration_reason:string expiration_time:time is_mfa:bool is_remote:bool issuer:string terminal:string uid:string",
		"user":             "account:account credential_uid:string display_name:string domain:string email_addr:string full_name:string name:string type:string type_id:int uid:string uid_alt:string",
	}

	// The constraints "at_least_one".
	ocsfOneOf = map[string][]string{
		"Authentication":   {"service", "dst_endpoint"},
		"account":          {"name", "uid"},
		"actor":            {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
		"managed_entity":   {"name", "uid", "device", "email", "group", "org", "policy", "user"},
		"network_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name", "domain"},
		"user":             {"account", "name", "uid"},
	}

	// The enums, by where they are. An attribute beside each may say the value in
	// words: by the enum's, or where it is 99 (Other) by one's own.
	ocsfEnums = map[string]map[float64]string{
		"severity_id": {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal", 99: "Other"},
		"status_id":   {0: "Unknown", 1: "Success", 2: "Failure", 99: "Other"},
		"Account Change activity_id": {0: "Unknown", 1: "Create", 2: "Enable", 3: "Password Change", 4: "Password Reset", 5: "Disable", 6: "Delete", 7: "Attach Policy",
			8: "Detach Policy", 9: "Lock", 10: "MFA Factor Enable", 11: "MFA Factor Disable", 12: "Unlock", 99: "Other"},
		"Authentication activity_id": {0: "Unknown", 1: "Logon", 2: "Logoff", 3: "Authentication Ticket", 4: "Service Ticket Request", 5: "Service Ticket Renew", 6: "Preauth", 99: "Other"},
		"Entity Management activity_id": {0: "Unknown", 1: "Create", 2: "Read", 3: "Update", 4: "Delete", 5: "Move", 6: "Enroll", 7: "Unenroll", 8: "Enable", 9: "Disable",
			10: "Activate", 11: "Deactivate", 12: "Suspend", 13: "Resume", 99: "Other"},
		"User Access Management activity_id": {0: "Unknown", 1: "Assign Privileges", 2: "Revoke Privileges", 99: "Other"},
		"auth_protocol_id": {0: "Unknown", 1: "NTLM", 2: "Kerberos", 3: "Digest", 4: "OpenID", 5: "SAML", 6: "OAUTH 2.0", 7: "PAP", 8: "CHAP", 9: "EAP", 10: "RADIUS",
			11: "Basic Authentication", 12: "LDAP", 99: "Other"},
		"managed_entity type_id": {0: "Unknown", 1: "Device", 2: "User", 3: "Group", 4: "Organization", 5: "Policy", 6: "Email", 7: "Network Zone", 99: "Other"},
		"user type_id":           {0: "Unknown", 1: "User", 2: "Admin", 3: "System", 99: "Other"},
	}

	ocsfClassUIDs = map[string]float64{"Account Change": 3001, "Authentication": 3002, "Entity Management": 3004, "User Access Management": 3005}
)

// ocsfProblems holds one event to the tables, and says what is wrong with it.
func ocsfProblems(e map[string]any) (out []string) {
	class, _ := e["class_name"].(string)
	uid, ok := ocsfClassUIDs[class]
	if !ok || e["class_uid"] != uid {
		return []string{fmt.Sprintf("class %v is not called %q", e["class_uid"], class)}
	}
	if e["category_uid"] != 3.0 || e["category_name"] != "Identity & Access Management" {
		out = append(out, fmt.Sprintf("category %v is not called %v", e["category_uid"], e["category_name"]))
	}
	activity, _ := e["activity_id"].(float64)
	if e["type_uid"] != uid*100+activity {
		out = append(out, fmt.Sprintf("type %v of class %v and activity %v", e["type_uid"], uid, activity))
	}
	if name, _ := e["activity_name"].(string); activity == 0 || name == "" {
		out = append(out, fmt.Sprintf("activity %v, called %q, says nothing", activity, name))
	}
	if severity, _ := e["severity_id"].(float64); severity < 1 || severity > 6 {
		out = append(out, fmt.Sprintf("severity %v is not one of 1 to 6", e["severity_id"]))
	}
	if metadata, _ := e["metadata"].(map[string]any); metadata["version"] != ocsfVersion {
		out = append(out, fmt.Sprintf("schema %v", metadata["version"]))
	}
	return append(out, ocsfObject(class, class, e)...)
}

// ocsfObject holds an object, or an event, to what is said of its type.
func ocsfObject(at, typ string, o map[string]any) (out []string) {
	say := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	types := map[string]string{}
	for _, f := range strings.Fields(ocsfSchema[typ]) {
		name, t, _ := strings.Cut(f, ":")
		t, required := strings.CutSuffix(t, "!")
		types[name] = t
		if required && o[name] == nil {
			say("no %s", name)
		}
	}
	if one := ocsfOneOf[typ]; one != nil && !slices.ContainsFunc(one, func(name string) bool { return o[name] != nil }) {
		say("none of %v", one)
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		t, ok := types[name]
		if !ok {
			say("there is no attribute %s", name)
			continue
		}
		out = append(out, ocsfValue(at+"."+name, t, o[name])...)
		enum := ocsfEnums[typ+" "+name]
		if enum == nil {
			enum = ocsfEnums[name]
		}
		if enum == nil {
			continue
		}
		id, _ := o[name].(float64)
		caption, known := enum[id]
		sibling := strings.TrimSuffix(name, "_id")
		if sibling == "activity" {
			sibling = "activity_name"
		}
		switch said, _ := o[sibling].(string); {
		case !known:
			say("%s has no value %v", name, id)
		case id == 99 && (said == "" || said == "Other"):
			say("%s is another one, and %s doesn't say which", name, sibling)
		case id != 99 && said != "" && said != caption:
			say("%s %v is %q, not %q", name, id, caption, said)
		}
	}
	return out
}

// ocsfValue holds a value to its type.
func ocsfValue(at, t string, v any) []string {
	wrong := []string{fmt.Sprintf("%s is no %s: %v", at, t, v)}
	number := func(from, to float64) []string {
		if n, ok := v.(float64); !ok || n != math.Trunc(n) || n < from || n > to {
			return wrong
		}
		return nil
	}
	if of, ok := strings.CutPrefix(t, "[]"); ok {
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return wrong
		}
		var out []string
		for i, one := range list {
			out = append(out, ocsfValue(fmt.Sprintf("%s[%d]", at, i), of, one)...)
		}
		return out
	}
	switch t {
	case "string":
		if s, ok := v.(string); !ok || s == "" {
			return wrong
		}
	case "ip":
		s, _ := v.(string)
		if _, err := netip.ParseAddr(s); err != nil {
			return wrong
		}
	case "bool":
		if _, ok := v.(bool); !ok {
			return wrong
		}
	case "int":
		return number(-1<<53, 1<<53)
	case "port":
		return number(0, 65535)
	case "time": // in milliseconds
		return number(float64(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()), float64(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()))
	case "object":
		if _, ok := v.(map[string]any); !ok {
			return wrong
		}
	default:
		o, ok := v.(map[string]any)
		if !ok || ocsfSchema[t] == "" {
			return wrong
		}
		return ocsfObject(at, t, o)
	}
	return nil
}

// ocsfCheck holds one event to the tables.
func ocsfCheck(t *testing.T, e map[string]any) {
	t.Helper()
	for _, problem := range ocsfProblems(e) {
		t.Errorf("%s\nin %v", problem, e)
	}
}

// The check finds what is wrong.
func TestOCSFCheckFindsWhatIsWrong(t *testing.T) {
	good := func() map[string]any {
		at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
		e := ocsfOf(Record{Event: Event{Type: RequestReceived, Request: "x", Actor: "alice", Time: at}}, "log")
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	inner := func(e map[string]any, name string) map[string]any { return e[name].(map[string]any) }
	for want, spoil := range map[string]func(e map[string]any){
		"":                                        func(map[string]any) {},
		"no time":                                 func(e map[string]any) { delete(e, "time") },
		"time is no time":                         func(e map[string]any) { e["time"] = 1.7e9 },
		"there is no attribute colour":            func(e map[string]any) { e["colour"] = "red" },
		"there is no attribute privileges":        func(e map[string]any) { e["privileges"] = []any{"x"} },
		"type 300403 of class 3004":               func(e map[string]any) { e["type_uid"] = 300403.0 },
		"class 3005 is not called":                func(e map[string]any) { e["class_uid"] = 3005.0 },
		"category 6 is not":                       func(e map[string]any) { e["category_uid"] = 6.0 },
		"severity 0 is not one of 1 to 6":         func(e map[string]any) { e["severity_id"] = 0.0 },
		"severity 99 is not one of 1 to 6":        func(e map[string]any) { e["severity_id"], e["severity"] = 99.0, "odd" },
		`activity 0, called "Unknown"`:            func(e map[string]any) { e["activity_id"], e["type_uid"], e["activity_name"] = 0.0, 300400.0, "Unknown" },
		`activity 1, called ""`:                   func(e map[string]any) { delete(e, "activity_name") },
		"severity_id has no value 7":              func(e map[string]any) { e["severity_id"] = 7.0 },
		`activity_id 1 is "Create", not "Update"`: func(e map[string]any) { e["activity_name"] = "Update" },
		"activity_name doesn't say which":         func(e map[string]any) { e["activity_id"], e["type_uid"], e["activity_name"] = 99.0, 300499.0, "Other" },
		"schema 1.4.0":                            func(e map[string]any) { inner(e, "metadata")["version"] = "1.4.0" },
		"no vendor_name":                          func(e map[string]any) { delete(inner(inner(e, "metadata"), "product"), "vendor_name") },
		"none of [name uid device":                func(e map[string]any) { e["entity"] = map[string]any{"type": "x", "type_id": 99.0} },
		"type_id has no value 8":                  func(e map[string]any) { inner(e, "entity")["type_id"] = 8.0 },
		"user.name is no string":                  func(e map[string]any) { inner(inner(e, "actor"), "user")["name"] = "" },
		"src_endpoint.ip is no ip":                func(e map[string]any) { e["src_endpoint"] = map[string]any{"ip": "web-1"} },
		"src_endpoint.port is no port":            func(e map[string]any) { e["src_endpoint"] = map[string]any{"ip": "::1", "port": 65536.0} },
	} {
		e := good()
		spoil(e)
		switch got := strings.Join(ocsfProblems(e), "\n"); {
		case want == "" && got != "":
			t.Errorf("a good one: %s", got)
		case !strings.Contains(got, want):
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// Every type of event becomes a valid one, also where hardly anything is in it.
func TestOCSFOfEveryType(t *testing.T) {
	for _, typ := range append(slices.Sorted(maps.Keys(ocsfKinds)), "request.new-kind") {
		for _, e := range []Event{
			{},
			{Request: "01900000-0000-7000-8000-000000000001", Resource: "ssh/web-1", Requester: "alice", Actor: "bob", Code: access.CodeDenied, Why: "no"},
			{Statement: &access.Statement{Payload: "{}"}, Code: access.CodeMalformed},
		} {
			e.Type, e.Time = typ, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
			data, err := json.Marshal(ocsfOf(Record{Event: e}, "log"))
			if err != nil {
				t.Fatal(err)
			}
			var out map[string]any
			if err := json.Unmarshal(data, &out); err != nil {
				t.Fatal(err)
			}
			t.Run(typ, func(t *testing.T) { ocsfCheck(t, out) })
		}
	}
}

func exported(t *testing.T, w *world, q Query) (out []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	if err := w.log.ExportOCSF(context.Background(), &b, q); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

// Every event of a log in which everything happens is a valid one of its class.
func TestExportOCSF(t *testing.T) {
	w, r, c := visited(t)
	w.rulebook("locks: {groups: [security]}\n" + hostsPolicy)
	for _, event := range []string{access.SessionOpened, access.SessionClosed} {
		st := w.report("agent", c, func(s *access.Session) { s.Event = event })
		if err := w.log.Report(context.Background(), st, w.on); err != nil {
			t.Fatal(err)
		}
	}
	made := w.report("agent", c, func(s *access.Session) { s.Serial++ })
	if err := w.log.Report(context.Background(), made, w.on); access.CodeOf(err) != access.CodeMismatch {
		t.Fatal(err)
	}
	w.end(End{Request: r.ID, State: access.StateExpired})
	w.live()
	for _, l := range []access.Lock{{Kind: access.LockUser, Name: "alice"}, {Kind: access.LockResource, Name: "ssh/web-1"}} {
		l.Header, l.Action, l.Reason = w.header(access.TypeLock, "carol"), access.ActionLock, "stolen laptop"
		if _, err := w.log.Lock(context.Background(), w.book, w.sign("carol", l), w.now); err != nil {
			t.Fatal(err)
		}
	}
	held, err := w.log.Locks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	unlock := access.Lock{Header: w.header(access.TypeLock, "carol"), Action: access.ActionUnlock, Kind: access.LockUser, Name: "alice", Lock: held.Held[0].Lock.ID}
	if _, err := w.log.Lock(context.Background(), w.book, w.sign("carol", unlock), w.now); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{RulebookBroken, SweepStuck, CredentialRefused, StatementRefused} {
		w.record(Event{Type: typ, Code: access.CodeUnverified, Why: "something \x1b[31m odd"})
	}
	all := exported(t, w, Query{})
	if report := w.verify(VerifyOptions{}); int64(len(all)) != report.Size {
		t.Errorf("%d events of %d", len(all), report.Size)
	}
	find := func(typ string) map[string]any {
		for _, e := range all {
			if e["metadata"].(map[string]any)["event_code"] == typ {
				return e
			}
		}
		t.Fatalf("no %s", typ)
		return nil
	}
	for i, e := range all {
		ocsfCheck(t, e)
		if e["metadata"].(map[string]any)["sequence"] != float64(i) {
			t.Errorf("event %d says it is %v", i, e["metadata"])
		}
	}
	issued := find(CredentialIssued)
	if issued["class_name"] != "User Access Management" || issued["privileges"].([]any)[0] != "web-1/deploy" ||
		issued["user"].(map[string]any)["name"] != "alice" || issued["resources"].([]any)[0].(map[string]any)["name"] != "ssh/web-1" {
		t.Errorf("issued: %v", issued)
	}
	logon := find(SessionOpened)
	if logon["src_endpoint"].(map[string]any)["ip"] != "10.0.0.1" || logon["dst_endpoint"].(map[string]any)["hostname"] != "web-1" ||
		logon["user"].(map[string]any)["account"].(map[string]any)["name"] != "deploy" || logon["actor"] != nil {
		t.Errorf("logon: %v", logon)
	}
	refused := find(SessionRefused)
	if refused["severity_id"] != 4.0 || refused["status_code"] != string(access.CodeMismatch) || refused["dst_endpoint"].(map[string]any)["hostname"] != "web-1" ||
		refused["user"].(map[string]any)["name"] != "unknown" || refused["user"].(map[string]any)["account"].(map[string]any)["name"] != "deploy" {
		t.Errorf("refused report: %v", refused)
	}
	lock := find(LockSet)
	if lock["class_uid"] != 3001.0 || lock["activity_id"] != 9.0 || lock["user"].(map[string]any)["name"] != "alice" ||
		lock["actor"].(map[string]any)["user"].(map[string]any)["name"] != "carol" {
		t.Errorf("lock: %v", lock)
	}
	unlocked := find(LockLifted)
	if unlocked["class_uid"] != 3001.0 || unlocked["activity_id"] != 12.0 || unlocked["user"].(map[string]any)["name"] != "alice" {
		t.Errorf("unlock: %v", unlocked)
	}
	if refused := find(CredentialRefused); refused["status_id"] != 2.0 || refused["status_code"] != string(access.CodeUnverified) {
		t.Errorf("refused: %v", refused)
	}
	// What a type becomes that isn't in the table.
	if ocsf := ocsfOf(Record{Event: Event{Type: "request.new-kind", Request: "x"}}, "log"); ocsf.ClassUID != ocsfEntity || ocsf.Entity.UID != "x" {
		t.Errorf("unknown type: %+v", ocsf)
	}
}

// Every mapping is in the documentation, as it is.
func TestOCSFTableIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/spec/ocsf.md")
	if err != nil {
		t.Fatal(err)
	}
	for typ, kind := range ocsfKinds {
		row := ""
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, "| `"+typ+"` |") {
				row = line
			}
		}
		for _, want := range []string{ocsfClasses[kind.class], kind.name} {
			if !strings.Contains(row, want) {
				t.Errorf("docs/spec/ocsf.md says of %s: %q, without %q", typ, row, want)
			}
		}
	}
	if !strings.Contains(string(page), ocsfVersion) {
		t.Error("docs/spec/ocsf.md doesn't name the version")
	}
}
