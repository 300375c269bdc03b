{
  "variables": { "sanitize%": "no" },
  "targets": [
    {
      "target_name": "virtiofsd_native",
      "sources": [
        "addon.cc",
        "context.cc",
        "guest_memory.cc",
        "memory_guard.cc",
        "dirty_log.cc",
        "shared_memory.cc",
        "event_wait.cc",
        "unix_socket.cc",
        "process.cc",
        "every_thread.cc",
        "sandbox.cc",
        "fs_calls.cc",
        "file_io.cc",
        "file_map.cc",
        "file_watch.cc"
      ],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include\")"],
      "defines": ["NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED", "NAPI_VERSION=9", "_GNU_SOURCE", "_FILE_OFFSET_BITS=64"],
      "cflags_cc": ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-O2", "-g", "-fvisibility=hidden", "-fno-exceptions"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
      # Threads and signal handlers of ours may outlive the last JavaScript thread that uses the shim.
      "ldflags": ["-Wl,-z,nodelete"],
      "conditions": [
        ["sanitize=='address'", {
          "cflags_cc": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
          "ldflags": ["-fsanitize=address,undefined"]
        }],
        ["sanitize=='thread'", {
          "cflags_cc": ["-fsanitize=thread", "-fno-omit-frame-pointer"],
          "ldflags": ["-fsanitize=thread"]
        }]
      ]
    },
    {
      "target_name": "virtiofsd-userns",
      "type": "executable",
      "sources": ["userns.cc"],
      "defines": ["_GNU_SOURCE"],
      "cflags_cc": ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-O2", "-g"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"]
    }
  ]
}
