// An addon for seccomp.test.ts: any system call, on this thread or one that is there already. Declares what
// it needs of Node-API, so that it compiles without Node's headers.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct Env *napi_env;
typedef struct Value *napi_value;
typedef struct Info *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);
int napi_get_cb_info(napi_env, napi_callback_info, size_t *, napi_value *, napi_value *, void **);
int napi_get_value_double(napi_env, napi_value, double *);
int napi_create_double(napi_env, double, napi_value *);
int napi_get_undefined(napi_env, napi_value *);
int napi_create_function(napi_env, const char *, size_t, napi_callback, void *, napi_value *);
int napi_set_named_property(napi_env, napi_value, const char *, napi_value);

static __thread volatile int trapped;

static void onTrap(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info;
  trapped = 1;
#ifdef __x86_64__
  ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 0;
#else
  (void)context;
#endif
}

static long perform(const long *a, int *wasTrapped) {
  trapped = 0;
  const long answer = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
  const long code = answer == -1 ? -errno : answer;
  *wasTrapped = trapped;
  return code;
}

static sem_t asked, answered;
static long order[7], outcome;
static int outcomeTrapped;

static void *threadMain(void *none) {
  for (;;) {
    while (sem_wait(&asked) != 0) {
    }
    outcome = perform(order, &outcomeTrapped);
    sem_post(&answered);
  }
  return none;
}

static napi_value result(napi_env env, long answer, int wasTrapped) {
  napi_value value;
  if (wasTrapped) napi_get_undefined(env, &value);
  else napi_create_double(env, (double)answer, &value);
  return value;
}

static void numbers(napi_env env, napi_callback_info info, long *out) {
  napi_value args[7];
  size_t count = 7;
  napi_get_cb_info(env, info, &count, args, NULL, NULL);
  for (size_t i = 0; i < 7; i++) {
    double number = 0;
    if (i < count) napi_get_value_double(env, args[i], &number);
    out[i] = (long)number;
  }
}

static napi_value call(napi_env env, napi_callback_info info) {
  long a[7];
  int wasTrapped;
  numbers(env, info, a);
  const long answer = perform(a, &wasTrapped);
  return result(env, answer, wasTrapped);
}

static napi_value callOnThread(napi_env env, napi_callback_info info) {
  numbers(env, info, order);
  sem_post(&asked);
  while (sem_wait(&answered) != 0) {
  }
  return result(env, outcome, outcomeTrapped);
}

static napi_value callOldGate(napi_env env, napi_callback_info info) {
  (void)info;
  long answer = -ENOSYS;
  trapped = 0;
#ifdef __x86_64__
  __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
#endif
  return result(env, answer, trapped);
}

static napi_value startThread(napi_env env, napi_callback_info info) {
  (void)info;
  pthread_t thread;
  sem_init(&asked, 0, 0);
  sem_init(&answered, 0, 0);
  if (pthread_create(&thread, NULL, threadMain, NULL) != 0) _exit(2);
  return result(env, 0, 0);
}

static napi_value catchTraps(napi_env env, napi_callback_info info) {
  (void)info;
  struct sigaction action = {0};
  action.sa_sigaction = onTrap;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGSYS, &action, NULL) != 0) _exit(2);
  return result(env, 0, 0);
}

static void define(napi_env env, napi_value exports, const char *name, napi_callback function) {
  napi_value value;
  napi_create_function(env, name, (size_t)-1, function, NULL, &value);
  napi_set_named_property(env, exports, name, value);
}

__attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  define(env, exports, "call", call);
  define(env, exports, "callOnThread", callOnThread);
  define(env, exports, "callOldGate", callOldGate);
  define(env, exports, "startThread", startThread);
  define(env, exports, "catchTraps", catchTraps);
  return exports;
}
