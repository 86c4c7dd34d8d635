/* A standalone Lua: lua [-e CODE | SCRIPT | -] [ARGS...]. Without a script it reads one from standard input. See lua_guest.h for what differs. */
#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

_Noreturn void lua_guest_error(lua_State *L, int status) {
    const char *message = status == LUA_YIELD ? "coroutine.yield is not available: this build of Lua cannot leave a C function"
                          : status == LUA_ERRMEM ? "not enough memory"
                                                 : lua_tostring(L, -1);
    fflush(stdout);
    fprintf(stderr, "lua: %s\n", message ? message : "an error that is not a string");
    luaL_traceback(L, L, NULL, 0);
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    exit(1);
}

/* WASI has no temporary files; io.tmpfile then answers nil and this reason. */
FILE *tmpfile(void) {
    errno = ENOSYS;
    return NULL;
}

static void set_arguments(lua_State *L, int argc, char **argv, int script) {
    lua_createtable(L, argc - script, script + 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

int main(int argc, char **argv) {
    int inline_code = argc > 1 && strcmp(argv[1], "-e") == 0;
    if (inline_code && argc < 3) {
        fprintf(stderr, "lua: -e needs code after it\n");
        return 2;
    }
    int script = inline_code ? 2 : argc > 1;
    const char *file = script && strcmp(argv[script], "-") != 0 ? argv[script] : NULL;
    lua_State *L = luaL_newstate();
    if (!L) {
        fprintf(stderr, "lua: not enough memory to start\n");
        return 1;
    }
    luaL_openlibs(L);
    set_arguments(L, argc, argv, script);
    if ((inline_code ? luaL_loadstring(L, argv[2]) : luaL_loadfile(L, file)) != LUA_OK)
        lua_guest_error(L, LUA_ERRRUN); /* the file could not be opened */
    int passed = 0;
    for (int i = script + 1; i < argc; i++, passed++)
        lua_pushstring(L, argv[i]);
    lua_pcall(L, passed, 0, 0); /* an error does not come back here, see lua_guest_error */
    lua_close(L);
    return 0;
}
