/*
 * The SASL mechanism XOAUTH2 for Postfix's SMTP client: the password is the access token, which the agent renews.
 *
 * No release of Debian or Ubuntu has one that Postfix can use (docs/oauth.md), so build.sh compiles this one into the
 * image. It reads no file, opens no connection and keeps nothing: it writes the two values that Postfix has into
 *
 *     user=USER ^A auth=Bearer TOKEN ^A ^A
 *
 * Mechanism: https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
 * Interface: saslplug.h of libsasl2-dev
 */
#include <stdio.h>
#include <string.h>

#include <sasl/sasl.h>
#include <sasl/saslplug.h>

static const char NAME[] = "XOAUTH2";
static const char FORMAT[] = "user=%s\1auth=Bearer %.*s\1\1";

typedef struct {
    int has_spoken;
    char *message;
    size_t size;
} session_t;

static int start(void *global, sasl_client_params_t *params, void **context)
{
    session_t *session = params->utils->malloc(sizeof *session);

    (void)global;
    if (session == NULL)
        return SASL_NOMEM;
    memset(session, 0, sizeof *session);
    *context = session;
    return SASL_OK;
}

static int ask_user(const sasl_utils_t *utils, const char **user)
{
    sasl_getsimple_t *ask = NULL;
    void *context = NULL;
    int result = utils->getcallback(utils->conn, SASL_CB_AUTHNAME, (sasl_callback_ft *)&ask, &context);

    if (result != SASL_OK || ask == NULL)
        return SASL_BADPARAM;
    result = ask(context, SASL_CB_AUTHNAME, user, NULL);
    return result == SASL_OK && *user == NULL ? SASL_BADPARAM : result;
}

static int ask_token(const sasl_utils_t *utils, sasl_secret_t **token)
{
    sasl_getsecret_t *ask = NULL;
    void *context = NULL;
    int result = utils->getcallback(utils->conn, SASL_CB_PASS, (sasl_callback_ft *)&ask, &context);

    if (result != SASL_OK || ask == NULL)
        return SASL_BADPARAM;
    result = ask(utils->conn, context, SASL_CB_PASS, token);
    return result == SASL_OK && *token == NULL ? SASL_BADPARAM : result;
}

static int first(session_t *session, sasl_client_params_t *params, const char **out, unsigned *out_length,
                 sasl_out_params_t *oparams)
{
    const sasl_utils_t *utils = params->utils;
    const char *user = NULL;
    sasl_secret_t *token = NULL;
    int result = ask_user(utils, &user);

    if (result == SASL_OK)
        result = ask_token(utils, &token);
    if (result == SASL_OK)
        result = params->canon_user(utils->conn, user, 0, SASL_CU_AUTHID | SASL_CU_AUTHZID, oparams);
    if (result != SASL_OK)
        return result;
    session->size = sizeof FORMAT + strlen(user) + token->len;
    session->message = utils->malloc(session->size);
    if (session->message == NULL)
        return SASL_NOMEM;
    *out_length = (unsigned)snprintf(session->message, session->size, FORMAT, user, (int)token->len,
                                     (const char *)token->data);
    *out = session->message;
    /* Not done: a server that refuses says why first, and wants an empty line before its 535. */
    return SASL_CONTINUE;
}

static int step(void *context, sasl_client_params_t *params, const char *in, unsigned in_length,
                sasl_interact_t **prompt, const char **out, unsigned *out_length, sasl_out_params_t *oparams)
{
    session_t *session = context;

    (void)in;
    (void)in_length;
    (void)prompt;
    *out = NULL;
    *out_length = 0;
    if (!session->has_spoken) {
        session->has_spoken = 1;
        return first(session, params, out, out_length, oparams);
    }
    *out = "";
    oparams->doneflag = 1;
    oparams->mech_ssf = 0;
    oparams->maxoutbuf = 0;
    oparams->encode = NULL;
    oparams->decode = NULL;
    oparams->param_version = 0;
    return SASL_OK;
}

static void dispose(void *context, const sasl_utils_t *utils)
{
    session_t *session = context;

    if (session == NULL)
        return;
    if (session->message != NULL) {
        utils->erasebuffer(session->message, (unsigned)session->size);
        utils->free(session->message);
    }
    utils->free(session);
}

static sasl_client_plug_t mechanism = {
    .mech_name = NAME,
    /* It protects nothing by itself; the number makes libsasl prefer it to PLAIN and LOGIN where a server has both. */
    .max_ssf = 60,
    /* Without SASL_SEC_NOPLAINTEXT: Postfix does not choose it on a connection without TLS (smtp_sasl_security_options). */
    .security_flags = SASL_SEC_NOANONYMOUS | SASL_SEC_PASS_CREDENTIALS,
    .features = SASL_FEAT_WANT_CLIENT_FIRST,
    .mech_new = start,
    .mech_step = step,
    .mech_dispose = dispose,
};

int sasl_client_plug_init(const sasl_utils_t *utils, int newest, int *version, sasl_client_plug_t **mechanisms,
                          int *count);

int sasl_client_plug_init(const sasl_utils_t *utils, int newest, int *version, sasl_client_plug_t **mechanisms,
                          int *count)
{
    (void)utils;
    if (newest < SASL_CLIENT_PLUG_VERSION)
        return SASL_BADVERS;
    *version = SASL_CLIENT_PLUG_VERSION;
    *mechanisms = &mechanism;
    *count = 1;
    return SASL_OK;
}
