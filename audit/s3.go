package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"hallpass/access"
)

// s3 is an object in Amazon's S3, or in a store that speaks its protocol.
type s3 struct {
	url    string
	region string
}

// The names are those that need no escaping in an address, so that what is
// signed is what is sent.
var (
	s3Bucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	s3Object = regexp.MustCompile(`^/[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)
	s3Region = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	s3Host   = regexp.MustCompile(`^(https|http)://[A-Za-z0-9.:\[\]-]+$`)
)

func isS3(name string) bool { return strings.HasPrefix(name, "s3:") }

// parseS3 reads "s3://BUCKET/KEY?region=REGION&endpoint=https://HOST". Amazon's
// own endpoint has the bucket in its host name; others have it in the path.
func parseS3(name string) (s3, error) {
	bad := func(what string) (s3, error) {
		return s3{}, access.Errorf(access.CodeMalformed, "the place for checkpoints in S3: %s", what).
			WithHint("s3://BUCKET/KEY?region=REGION, with &endpoint=https://HOST where it isn't Amazon's")
	}
	u, err := url.Parse(name)
	if err != nil {
		return bad("it can't be read")
	}
	if u.User != nil {
		return bad("there is a user or password in it, which would be shown; put \"ID SECRET\" into the file audit.publish_authorization")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Fragment != "" {
		return bad("it can't be read")
	}
	for name, values := range query {
		if name != "region" && name != "endpoint" || len(values) != 1 {
			return bad("it has a region and an endpoint, each once, and nothing else")
		}
	}
	region, endpoint := query.Get("region"), query.Get("endpoint")
	switch {
	case !s3Bucket.MatchString(u.Host):
		return bad("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens")
	case !s3Object.MatchString(u.EscapedPath()) || len(u.Path) > 500:
		return bad("a key has letters, digits, dots, underscores, hyphens and slashes, and no part begins with a dot")
	case !s3Region.MatchString(region):
		return bad("which region? Stores other than Amazon's often say us-east-1")
	case endpoint != "" && (!s3Host.MatchString(endpoint) || !isURL(endpoint)):
		return bad("the endpoint is not of the form https://HOST or https://HOST:PORT")
	case endpoint != "":
		return s3{endpoint + "/" + u.Host + u.Path, region}, nil
	case strings.Contains(u.Host, "."): // Amazon's certificate has no names with more dots
		return s3{"https://s3." + region + ".amazonaws.com/" + u.Host + u.Path, region}, nil
	default:
		return s3{"https://" + u.Host + ".s3." + region + ".amazonaws.com" + u.Path, region}, nil
	}
}

// isURL says whether an endpoint's host and port can be read.
func isURL(endpoint string) bool {
	_, err := url.Parse(endpoint)
	return err == nil
}

// s3Key is an access key.
type s3Key struct {
	id, secret string
	token      string // "" but for temporary ones
}

// parseS3Key reads "ID SECRET" or "ID SECRET TOKEN". It never repeats them.
func parseS3Key(line string) (s3Key, error) {
	words := strings.Fields(line)
	if len(words) != 2 && len(words) != 3 {
		return s3Key{}, access.Errorf(access.CodeMalformed, "the file audit.publish_authorization doesn't say \"ID SECRET\", the access key for S3, or \"ID SECRET TOKEN\" for a temporary one")
	}
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r < '!' || r > '~' }) {
			return s3Key{}, access.Errorf(access.CodeMalformed, "the access key for S3 has something in it that no key has")
		}
	}
	return s3Key{words[0], words[1], strings.Join(words[2:], "")}, nil
}

// sign adds the headers of AWS Signature Version 4 for S3
// (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html): the
// request's headers so far, its address and its body are covered. The signature is
// good for 15 minutes, and for this request alone.
func (k s3Key) sign(r *http.Request, body []byte, region string, now time.Time) {
	stamp := now.UTC().Format("20060102T150405Z")
	scope := stamp[:8] + "/" + region + "/s3/aws4_request"
	sum := sha256.Sum256(body)
	r.Header.Set("X-Amz-Date", stamp)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	if k.token != "" {
		r.Header.Set("X-Amz-Security-Token", k.token)
	}
	headers := map[string]string{"host": r.URL.Host}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.TrimSpace(values[0])
	}
	names := slices.Sorted(maps.Keys(headers))
	lines := ""
	for _, name := range names {
		lines += name + ":" + headers[name] + "\n"
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{
		r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"),
		lines, signed, hex.EncodeToString(sum[:]),
	}, "\n")
	sum = sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + k.secret)
	for _, part := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(sum[:])) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.id+"/"+scope+",SignedHeaders="+signed+",Signature="+hex.EncodeToString(key))
}

var s3Code = regexp.MustCompile(`^[A-Za-z0-9.]{1,60}$`)

// reasonS3 is the code in an error of S3, such as ": NoSuchBucket"; "" where
// there is none.
func reasonS3(place string, body []byte) string {
	var said struct{ Code string }
	if !isS3(place) || xml.Unmarshal(body, &said) != nil || !s3Code.MatchString(said.Code) {
		return ""
	}
	switch said.Code {
	case "AuthorizationHeaderMalformed", "PermanentRedirect": // signed for another region, or sent to another one's endpoint
		return ": " + said.Code + "; is its region right?"
	}
	return ": " + said.Code
}
