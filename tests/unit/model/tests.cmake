ebb_unit_test(model check)
ebb_unit_test(model config)
ebb_unit_test(model learn)
ebb_unit_test(model metrics)
ebb_unit_test(model onnx)
ebb_unit_test(model whole)

# The example plug-in, built as a user would: with the public headers alone.
add_library(plugin_wide_deep MODULE ${CMAKE_CURRENT_LIST_DIR}/../../support/plugin_wide_deep.c)
target_include_directories(plugin_wide_deep PRIVATE ${PROJECT_SOURCE_DIR}/include)
set_target_properties(plugin_wide_deep PROPERTIES PREFIX "")
ebb_unit_test(model plugin)
target_compile_definitions(test_model_plugin PRIVATE PLUGIN_WIDE_DEEP="$<TARGET_FILE:plugin_wide_deep>")
add_dependencies(test_model_plugin plugin_wide_deep)
