# Files of earlier versions of the formats, frozen, must read for ever.
add_executable(formattest_shard format/test_shard.c)
target_include_directories(formattest_shard PRIVATE support)
target_compile_definitions(formattest_shard PRIVATE FROZEN="${CMAKE_CURRENT_LIST_DIR}/shard-1")
target_link_libraries(formattest_shard PRIVATE ebb_shard cmocka)
add_test(NAME format.shard COMMAND formattest_shard)
set_tests_properties(format.shard PROPERTIES LABELS format TIMEOUT 600)
