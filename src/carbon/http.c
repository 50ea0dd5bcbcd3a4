/* HTTP: one GET through libcurl, with a time limit for each try and for all together, waits between tries that grow and
 * vary, a limit of size, and no redirects (a token must not follow one). Secrets go into headers only; messages name
 * the address without its query. Without libcurl the sources that need it say so. */
#include "carbon/internal.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/rng.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#if EBB_HAVE_CURL
#include <curl/curl.h>

#define MOST_BYTES ((size_t)8 << 20)

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t take_body(char *data, size_t size, size_t n, void *user)
{
    ebb_text_t *text = user;
    if (text->n + size * n > MOST_BYTES)
        return 0;
    ebb_text_append(text, data, size * n);
    return text->failed ? 0 : size * n;
}

static double seconds_now(void)
{
    return (double)ebb_now_ns() * 1e-9;
}

/* A token travels encrypted, or not at all, unless it stays on this machine. */
static bool is_safe_for_secrets(const char *url)
{
    static const char *const local[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};
    if (strncasecmp(url, "https://", 8) == 0)
        return true;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        size_t n = strlen(local[i]);
        if (strncasecmp(url, local[i], n) == 0 && (url[n] == ':' || url[n] == '/' || url[n] == 0))
            return true;
    }
    return false;
}

static void set_options(CURL *curl, const ebb_carbon_request_t *r, double timeout_s, ebb_text_t *text, char *error)
{
    curl_easy_setopt(curl, CURLOPT_URL, r->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(1000 * timeout_s) + 1);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(1000 * timeout_s) + 1);
    curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "ebb/" EBB_VERSION);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, text);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    if (r->userpass) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERPWD, r->userpass);
    }
}

/* One try. why: what happened if *code_p is not 2xx. */
static void try_once(const ebb_carbon_request_t *r, double timeout_s, ebb_text_t *text, long *code_p, char why[256])
{
    char error[CURL_ERROR_SIZE] = "";
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
    struct curl_slist *more = headers && r->header ? curl_slist_append(headers, r->header) : headers;
    *code_p = 0;
    ebb_text_free(text);
    if (!curl || !more) {
        snprintf(why, 256, "out of memory");
    } else {
        set_options(curl, r, timeout_s, text, error);
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, more);
        CURLcode result = curl_easy_perform(curl);
        if (result == CURLE_OK)
            curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, code_p);
        snprintf(why, 256, "%s", result == CURLE_OK ? "" : error[0] ? error : curl_easy_strerror(result));
    }
    curl_slist_free_all(more ? more : headers);
    curl_easy_cleanup(curl);
}

static bool is_worth_another(long code)
{
    return code == 0 || code == 408 || code == 425 || code == 429 || code >= 500;
}

static double random_factor(int attempt)
{
    return 0.5 + ebb_rng_uniform((uint64_t)ebb_now_ns(), EBB_RNG_TEST, (uint64_t)getpid(), (uint64_t)attempt);
}

/* What a service says in the body of a refusal. */
static void describe_refusal(const ebb_text_t *text, long code, char why[256])
{
    json_t *root = text->n > 0 ? json_loadb(text->s, text->n, 0, NULL) : NULL;
    const json_t *error = json_object_get(root, "error");
    const char *said = json_string_value(error);
    said = said ? said : json_string_value(json_object_get(error, "message"));
    said = said ? said : json_string_value(json_object_get(root, "message"));
    const char *hint = code == 401 || code == 403  ? " (is the token right?)"
                       : code >= 300 && code < 400 ? " (a redirect; give the final address)"
                                                   : "";
    snprintf(why, 256, "answers %ld%s%.150s%s", code, said ? ": " : "", said ? said : "", hint);
    json_decref(root);
}

ebb_status_t ebb_carbon_http_get(const ebb_carbon_request_t *r, ebb_text_t *text, long *code_p)
{
    char why[256] = "no time was left to ask";
    *code_p = 0;
    if ((r->header || r->userpass) && !is_safe_for_secrets(r->url))
        return EBB_FAIL(EBB_EUSAGE, "%s: a token is not sent unencrypted; use https://", r->place);
    pthread_once(&once, start_curl);
    for (int attempt = 0; attempt < r->tries; attempt++) {
        double left = r->deadline_s - seconds_now();
        if (left <= 0.01)
            break;
        try_once(r, left < r->timeout_s ? left : r->timeout_s, text, code_p, why);
        if (*code_p >= 200 && *code_p < 300)
            return EBB_OK;
        if (*code_p != 0)
            describe_refusal(text, *code_p, why);
        EBB_DEBUG("carbon", "%s: try %d: %s", r->place, attempt + 1, why);
        double wait = 0.25 * (double)(1 << attempt) * random_factor(attempt);
        if (!is_worth_another(*code_p) || seconds_now() + wait >= r->deadline_s || attempt + 1 == r->tries)
            break;
        usleep((useconds_t)(1e6 * wait));
    }
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: %s", r->place, why);
}

#else

ebb_status_t ebb_carbon_http_get(const ebb_carbon_request_t *r, ebb_text_t *text, long *code_p)
{
    *code_p = 0;
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: this ebb was built without libcurl (Debian: libcurl4-openssl-dev)",
                    r->place);
}

#endif
